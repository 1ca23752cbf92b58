"""A tiny LightOnOCR with seeded weights that both `transformers serve` and this program read.

python scripts/references/_lighton_serve.py FOLDER      # under torch and transformers
"""

import json
import sys
from pathlib import Path

_SCRIPTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_SCRIPTS), str(_SCRIPTS.parent)]

from tokenizers import Tokenizer  # noqa: E402
from transformers import (  # noqa: E402
    GenerationConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    PixtralImageProcessor,
    PreTrainedTokenizerFast,
)

from references import lighton_ocr  # noqa: E402
from tests.families import lighton_made  # noqa: E402

_TEMPLATE = _SCRIPTS.parent / "tests" / "families" / "lighton_ocr" / "golden" / "lines.jinja"
_LONGEST = 280


def write(folder: Path) -> None:
    """Model, tokenizer, processor and template, as transformers saves them."""
    case = lighton_ocr.CASES[0]
    config = lighton_ocr.model_config(case)
    model = LightOnOcrForConditionalGeneration(config).eval()
    lighton_ocr.fill(model, case.seed)
    special = lighton_made.QWEN
    ends = [special["<|im_end|>"], special["<|endoftext|>"]]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    model.save_pretrained(folder)
    lighton_made.write_tokenizer(folder, special)
    _spell_whole(folder / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
        },
    )
    patch = config.vision_config.patch_size
    pictures = PixtralImageProcessor(size={"longest_edge": _LONGEST}, patch_size=patch * case.merge)
    template = _TEMPLATE.read_text("utf-8")
    processor = LightOnOcrProcessor(
        pictures, tokenizer, patch_size=patch, spatial_merge_size=case.merge, chat_template=template
    )
    processor.save_pretrained(folder)


def _spell_whole(file: Path) -> None:
    """Words instead of halves of characters: a model of noise says them, and servers differ in what they make of them."""
    written = json.loads(file.read_text("utf-8"))
    tokenizer, vocabulary = Tokenizer.from_file(str(file)), written["model"]["vocab"]
    broken = {piece: id_ for piece, id_ in vocabulary.items() if "\ufffd" in tokenizer.decode([id_])}
    for piece, id_ in broken.items():
        del vocabulary[piece]
        vocabulary[f"Ġv{id_}"] = id_
    file.write_text(json.dumps(written), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
