"""Everything in a checkpoint's folder but its weights: pictures, prompts, tokenizers, settings, and what is said of damage."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

import ocr_mlx
from ocr_mlx.domain import ModelRef, Page, PageStatus, Prompt, resolve
from ocr_mlx.errors import CheckpointIncomplete, InvalidOption, ModelError, UnsupportedArchitecture
from ocr_mlx.model.base import ModelInputs
from ocr_mlx.model.families.got_ocr2 import tokenizer as tokens
from ocr_mlx.model.families.got_ocr2.config import GotConfig
from ocr_mlx.model.families.got_ocr2.family import FAMILY
from ocr_mlx.model.families.got_ocr2.picture import PictureSettings, grid_for, pixels, tiles
from ocr_mlx.model.families.got_ocr2.processor import GotProcessor, read_processor
from ocr_mlx.model.load import load_model
from tests.families import got_checkpoint as made
from tests.families import got_made, seeded

UPSTREAM = load_file(made.GOLDEN / "processor.safetensors")
GRIDS = load_file(made.GOLDEN / "grids.safetensors")["grids"]
MODES = FAMILY.modes
SYSTEM = "You should follow the instructions carefully and explain your answers in detail."
IMAGE = 599


def page(image: Image.Image, *following: Image.Image) -> Page:
    return Page(
        index=0, image=image, width=image.width, height=image.height, dpi=None, origin="image", following=following
    )


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


# --- pictures


@pytest.mark.parametrize("name", got_made.SIZES)
def test_pixels_are_upstreams(name: str) -> None:
    image = Image.fromarray(got_made.picture(name))
    for side in got_made.sides(name):
        settings = PictureSettings(side=side)
        cut = tiles(image, grid_for(*image.size, side), side)
        for way, pictures in (("plain", [image]), ("crop", cut)):
            found = pixels(pictures, settings)
            assert found.dtype == np.float32
            assert found.shape == (len(pictures), side, side, 3)
            expected = UPSTREAM[f"{name}.{side}.{way}.sample"]
            np.testing.assert_allclose([got_made.sample(p) for p in found], expected, rtol=0, atol=1e-6)
            sums = found.astype(np.float64).sum((1, 2))
            np.testing.assert_allclose(sums, UPSTREAM[f"{name}.{side}.{way}.sums"], rtol=0, atol=0.05)


def test_grids_are_upstreams() -> None:
    assert len(GRIDS) > 300
    assert len({tuple(grid) for grid in GRIDS[:, 2:].tolist()}) == 14
    for width, height, columns, rows in GRIDS.tolist():
        assert grid_for(width, height, 1024) == (columns, rows), (width, height)


def test_tiles_go_row_by_row_and_the_whole_is_last() -> None:
    image = Image.new("RGB", (60, 90))
    for place in range(6):
        image.paste((place * 40, 0, 0), (place % 2 * 30, place // 2 * 30, place % 2 * 30 + 30, place // 2 * 30 + 30))
    cut = tiles(image, (2, 3), 64)
    assert [tile.getpixel((32, 32)) for tile in cut[:-1]] == [(place * 40, 0, 0) for place in range(6)]
    assert cut[-1] == image
    assert tiles(image, (1, 1), 64) == [image]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_any_image_mode_is_read(mode: str) -> None:
    image = blank(40, 90).convert(mode)
    for pictures in ([image], tiles(image, (1, 2), 32)):
        assert pixels(pictures, PictureSettings(side=32)).shape == (len(pictures), 32, 32, 3)


# --- processor and prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without weights; pictures are 256 x 256 and take 16 places."""
    folder = tmp_path_factory.mktemp("got")
    (folder / "config.json").write_text(json.dumps(made.config_of("windows")))
    made.write_ranks(folder, made.first_special("windows"))
    return folder


@pytest.fixture(scope="module")
def processor(folder: Path) -> GotProcessor:
    return read_processor(folder, made.config_of("windows"))


def conversation(processor: GotProcessor, task: str, pictures: int, system: str = SYSTEM) -> tuple[int, ...]:
    """The original's words, encoded in one piece by a tokenizer that knows special tokens when it sees them."""
    text = (
        f"<|im_start|>system\n{system}<|im_end|><|im_start|>user\n<img>{'<imgpad>' * 16 * pictures}</img>\n{task}"
        "<|im_end|><|im_start|>assistant\n"
    )
    reading = Tokenizer.from_str(processor.tokenizer.to_str())
    reading.encode_special_tokens = False
    return tuple(reading.encode(text).ids)


def row(processor: GotProcessor, mode: str, prompt: str = "", of: Page | None = None, system: str = "") -> ModelInputs:
    asked = Prompt(text=prompt, system=system, mode=mode)
    (found,) = processor.prepare(of or page(blank(200, 100)), asked, MODES[mode]).rows
    assert found.prompt_tokens == len(found.token_ids)
    return found


@pytest.mark.parametrize(
    ("mode", "prompt", "task"),
    [
        ("ocr", "", "OCR: "),
        ("format", "", "OCR with format: "),
        ("format", "Read the title: ", "Read the title: "),
        ("ocr", "<imgpad>", None),
        ("box", "20,10,100,50", "[100, 100, 500, 500] OCR: "),
        ("box", " [20, 10; 199.9 99.9] ", "[100, 100, 999, 999] OCR: "),
        ("box", "0 0 200 100", "[0, 0, 1000, 1000] OCR: "),
        ("box", "1,33", "[5, 330] OCR: "),
        ("box-format", "20,10,100,50", "[100, 100, 500, 500] OCR with format: "),
        ("color", "red", "[red] OCR: "),
        ("color", "[Green]", "[green] OCR: "),
        ("color-format", "blue", "[blue] OCR with format: "),
        ("multi-page", "", "OCR with format across multi pages: "),
    ],
)
def test_prompts_are_the_originals(processor: GotProcessor, mode: str, prompt: str, task: str | None) -> None:
    found = row(processor, mode, prompt)
    if task is not None:
        assert found.token_ids == conversation(processor, task, 1)
    assert found.token_ids.count(IMAGE) == 16
    assert found.pixels is not None
    assert found.pixels.shape == (1, 256, 256, 3)
    assert found.effective_size == (256, 256)


def test_ids_stand_where_the_original_has_them() -> None:
    ids = tokens.special_ids(151859)
    wanted = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|extra_204|>": 151850}
    wanted |= {"<ref>": 151851, "</quad>": 151856, "<img>": 151857, "</img>": 151858, "<imgpad>": 151859}
    assert len(ids) == got_made.SPECIAL_COUNT
    assert wanted.items() <= ids.items()


@pytest.mark.parametrize(
    ("mode", "task"),
    [("crop", "OCR with format upon the patch reference: "), ("crop-plain", "OCR upon the patch reference: ")],
)
def test_crops_share_one_prompt(processor: GotProcessor, mode: str, task: str) -> None:
    found = row(processor, mode, of=page(blank(300, 600)))
    assert found.pixels is not None
    assert found.pixels.shape == (3, 256, 256, 3)
    assert found.effective_size == (256, 512)
    assert found.token_ids == conversation(processor, task, 3)
    single = row(processor, mode, of=page(blank(90, 90)))
    assert single.token_ids == conversation(processor, task, 1)
    assert single.effective_size == (256, 256)


def test_pages_share_one_prompt(processor: GotProcessor) -> None:
    pictures = [Image.fromarray(got_made.picture(name)) for name in ("small", "tall", "grey")]
    found = row(processor, "multi-page", of=page(*pictures))
    assert found.token_ids == conversation(processor, "OCR with format across multi pages: ", 3)
    assert found.pixels is not None
    for picture, seen in zip(pictures, found.pixels, strict=True):
        np.testing.assert_array_equal(seen, pixels([picture], PictureSettings(side=256))[0])


def test_a_system_prompt_of_ones_own(processor: GotProcessor) -> None:
    assert row(processor, "ocr", system="Be brief.").token_ids == conversation(processor, "OCR: ", 1, "Be brief.")


@pytest.mark.parametrize(
    ("mode", "prompt", "named"),
    [
        ("box", "", "A box is needed"),
        ("box", "1,2,3", "'1,2,3' is no box"),
        ("box", "a,b,c,d", "is no box"),
        ("box", "1,2,nan,4", "is no box"),
        ("box", "5,5,5,9", "on this page"),
        ("box", "9,9,5,5", "on this page"),
        ("box", "0,0,201,50", "on this page"),
        ("box-format", "-1,5", "on this page"),
        ("color", "", "A colour is needed"),
        ("color-format", "yellow", "'yellow' is no colour"),
        ("ocr", "  ", "empty"),
    ],
)
def test_bad_values_say_what_is_allowed(processor: GotProcessor, mode: str, prompt: str, named: str) -> None:
    with pytest.raises(InvalidOption, match=named) as caught:
        row(processor, mode, prompt)
    if MODES[mode].options:
        allowed = "red, green, blue" if "color" in mode else "200 x 100"
        assert allowed in caught.value.hint


def test_modes_decide_the_clean_up(processor: GotProcessor) -> None:
    raw, of = "\\title{A}\nb<|im_end|>", page(blank(9, 9))
    prepared = processor.prepare(of, Prompt(), MODES["ocr"])
    texts = {name: processor.postprocess(raw, of, prepared, mode).text for name, mode in MODES.items()}
    clean = {name for name, text in texts.items() if text == "# A\n\nb"}
    assert clean == {"format", "crop", "box-format", "color-format", "multi-page"}
    assert all(texts[name] == "\\title{A}\nb" for name in texts.keys() - clean)


def test_decoding_is_upstreams(processor: GotProcessor) -> None:
    guards = {name: resolve(FAMILY.defaults, mode.overrides).no_repeat_ngram for name, mode in MODES.items()}
    assert {name for name, guard in guards.items() if guard == 0} == {"crop", "crop-plain", "multi-page"}
    assert set(guards.values()) == {0, 20}
    assert (FAMILY.defaults.max_new_tokens, FAMILY.defaults.temperature) == (4096, 0.0)
    assert FAMILY.defaults.stop == ("<|im_end|>",)
    assert processor.repetition_test() is None
    assert {name: mode.pages_together for name, mode in MODES.items() if mode.pages_together > 1} == {"multi-page": 8}


def test_both_ends_stop(processor: GotProcessor, folder: Path, tmp_path: Path) -> None:
    first = made.first_special("windows")
    assert processor.eos_token_ids == {first, first + 2}
    made.write_ranks(tmp_path, first)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": first}))
    assert read_processor(tmp_path, made.config_of("windows")).eos_token_ids == {first, first + 2}


# --- tokenizers


WHOLE = "\u01c6\u01c5".encode()
"""A token that no two others make, as a few published ones: found only where it is a whole word."""


def trained(folder: Path, end: bytes = b"\n") -> tuple[dict[bytes, int], dict[str, int]]:
    """Real ranks, trained on this file's words, in `qwen.tiktoken`; and the special ids behind them."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    learner.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    letters = {letter: byte for byte, letter in enumerate(tokens._letters())}
    words = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    ranks = {bytes(letters[letter] for letter in word): rank for word, rank in words}
    ranks[WHOLE] = len(ranks)
    lines = (base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items())
    (folder / tokens.RANKS).write_bytes(end.join(lines) + end)
    return ranks, tokens.special_ids(len(ranks) + got_made.SPECIAL_COUNT - 1)


def joined_by_rank(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's own way for one piece: again and again the pair whose whole has the lowest rank."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(ranks.get(a + b, len(ranks)), at) for at, (a, b) in enumerate(pairwise(parts))]
        rank, at = min(pairs, default=(len(ranks), 0))
        if rank == len(ranks):
            return [ranks[part] for part in parts]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


TEXTS = (
    "def test_pixels(name: str) -> None: assert found.dtype == np.float32",
    "\u01c6\u01c5 \u01c6\u01c5a a\u01c6\u01c5\n\u01c6\u01c5 it's 12345 naïve ﬁgures — 你好，世界\r\n\r\n \t x   \n مرحبا 🙂",
    "".join(chr(33 + n % 500) for n in range(1500)),
    "".join("estinraopl_ .dfkgm"[int(n)] for n in abs(seeded.normal("letters", (3000,), 1)) * 6 % 18),
)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_ranks_make_the_originals_tokenizer(end: bytes, tmp_path: Path) -> None:
    ranks, special = trained(tmp_path, end)
    tokenizer = tokens.read(tmp_path, special["<imgpad>"])
    letters = {letter: byte for byte, letter in enumerate(tokens._letters())}
    assert {name: tokenizer.token_to_id(name) for name in special} == special
    assert tokenizer.get_vocab_size() == special["<imgpad>"] + 1
    for text in TEXTS:
        text = tokenizer.normalizer.normalize_str(text)
        pieces = [bytes(letters[c] for c in word) for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        assert b"".join(pieces).decode() == text
        expected = [rank for piece in pieces for rank in joined_by_rank(piece, ranks)]
        assert tokenizer.encode(text).ids == expected
        assert tokenizer.decode(expected) == text


def test_text_is_cut_and_composed_as_the_original_does(tmp_path: Path) -> None:
    _, special = trained(tmp_path)
    tokenizer = tokens.read(tmp_path, special["<imgpad>"])
    words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("It'S 42 (ok)\n\n x")]
    assert words == ["It", "'S", "Ġ", "4", "2", "Ġ(", "ok", ")ĊĊ", "Ġx"]
    assert tokenizer.decode(tokenizer.encode("e\u0301").ids) == "é"


def test_special_tokens_are_hidden_in_text_and_letters_in_a_prompt(tmp_path: Path) -> None:
    _, special = trained(tmp_path)
    tokenizer = tokens.read(tmp_path, special["<imgpad>"])
    assert not set(tokenizer.encode("<imgpad> <|im_end|>").ids) & set(special.values())
    ids = [*tokenizer.encode("ab").ids, special["<ref>"], special["<|im_end|>"]]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


def test_bytes_that_are_no_text_do_not_raise(tmp_path: Path) -> None:
    ranks, special = trained(tmp_path)
    tokenizer = tokens.read(tmp_path, special["<imgpad>"])
    assert tokenizer.decode([ranks[b"\xe4"], ranks[b"a"], ranks[b"\xff"]]) == "\ufffda\ufffd"


def test_tokenizer_json_comes_first(folder: Path, tmp_path: Path) -> None:
    made.write_ranks(tmp_path, 383)
    tokens.read(tmp_path, IMAGE).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / tokens.RANKS).write_bytes(b"broken")
    config = made.config_of("windows")
    again, ranks = read_processor(tmp_path, config), read_processor(folder, config)
    for mode in ("ocr", "crop"):
        assert row(again, mode).token_ids == row(ranks, mode).token_ids


def rewrite(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = folder / tokens.RANKS
    path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())))


def save_tokenizer(folder: Path, image_token: int, *lost: str) -> None:
    """A tokenizer.json of another size, or without some special tokens."""
    ids = tokens.special_ids(image_token)
    kept = {name: index for name, index in ids.items() if name not in lost}
    made.write_ranks(folder, ids["<|endoftext|>"])
    tokens.from_ranks(tokens.read_ranks(folder, ids["<|endoftext|>"]), kept).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / tokens.RANKS).unlink(), "neither tokenizer.json nor qwen.tiktoken"),
        (lambda folder: rewrite(folder, lambda lines: lines[:-1]), "383 tokens"),
        (lambda folder: rewrite(folder, lambda lines: [*lines, b"IQ== 900"]), "383 tokens"),
        (lambda folder: rewrite(folder, lambda lines: [b"!!! 0", *lines[1:]]), "line 1 "),
        (lambda folder: rewrite(folder, lambda lines: [*lines[:9], b"QQ==", *lines[10:]]), "line 10 "),
        (lambda folder: rewrite(folder, lambda lines: [b"YWJjZGVm 0", *lines[1:]]), "lacks the byte 0"),
        (lambda folder: (folder / tokens.RANKS).write_bytes(b"version https://git-lfs.github.com/x\n"), "LFS"),
        (lambda folder: (folder / tokens.RANKS).write_bytes(b""), "empty"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no tokenizer"),
        (lambda folder: save_tokenizer(folder, IMAGE, "<imgpad>", "<|im_end|>"), "<|im_end|>, <imgpad>"),
        (lambda folder: save_tokenizer(folder, IMAGE, "<|extra_7|>"), "at "),
        (lambda folder: save_tokenizer(folder, IMAGE + 1), "at "),
    ],
)
def test_a_wrong_tokenizer_is_refused(damage: Callable[[Path], object], named: str, tmp_path: Path) -> None:
    made.write_ranks(tmp_path, 383)
    damage(tmp_path)
    with pytest.raises(CheckpointIncomplete, match=named.replace("|", r"\|")) as caught:
        read_processor(tmp_path, made.config_of("windows"))
    assert caught.value.hint


# --- settings


@pytest.mark.parametrize("joint", [False, True])
def test_picture_settings_come_from_the_file(joint: bool, tmp_path: Path) -> None:
    own = {"size": {"height": 256, "width": 256}, "resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [1, 1, 1]}
    name = "processor_config.json" if joint else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps({"image_processor": own} if joint else own))
    assert PictureSettings.read(tmp_path, 256) == PictureSettings(side=256, mean=(0.5, 0.4, 0.3), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": {"height": 384, "width": 384}}, "384"),
        ({"size": {"height": 256, "width": 128}}, "128"),
        ({"resample": 2}, "bicubic"),
        ({"do_resize": False, "do_normalize": False}, "do_resize, do_normalize"),
        ({"image_std": [1]}, "image_std"),
    ],
)
def test_other_pictures_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(changes))
    with pytest.raises(UnsupportedArchitecture, match=named) as caught:
        PictureSettings.read(tmp_path, 256)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("", {"text_config": [1]}, "text_config is not an object"),
        ("", {"image_token_index": 600}, "600 is no id"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act"),
        ("text_config", {"use_sliding_window": True}, "use_sliding_window"),
        ("text_config", {"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ("text_config", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("text_config", {"hidden_size": -64}, "hidden_size"),
        ("vision_config", {"use_rel_pos": False}, "use_rel_pos"),
        ("vision_config", {"hidden_act": "relu"}, "hidden_act"),
        ("vision_config", {"image_size": [256, 128]}, "image_size"),
        ("vision_config", {"image_size": 250}, "250"),
        ("vision_config", {"num_attention_heads": 5}, "5 heads"),
    ],
)
def test_wrong_configs_are_named(part: str, changes: dict[str, Any], named: str) -> None:
    config = made.config_of("windows")
    (config[part] if part else config).update(changes)
    with pytest.raises((UnsupportedArchitecture, ValueError), match=named):
        FAMILY.build(config)


def test_config_of_all_layouts(model_facts: Path) -> None:
    found = {
        path: GotConfig.read(json.loads(path.read_text()))
        for path in (model_facts / "configs").glob("stepfun-ai__GOT*/config*.json")
    }
    assert len(found) == 3
    (config,) = set(found.values())
    assert (config.tokens_per_image, config.image_token) == (256, 151859)
    text, vision = config.text, config.vision
    assert text.qkv_bias
    assert text.tie_word_embeddings
    assert (text.rms_norm_eps, text.rope_theta, text.head_dim, text.num_key_value_heads) == (1e-6, 1e6, 64, 16)
    assert (vision.eps, vision.window, vision.global_layers, vision.heads) == (1e-6, 14, (2, 5, 8, 11), 12)


def test_published_settings_are_read(model_facts: Path) -> None:
    folder = model_facts / "configs" / "stepfun-ai__GOT-OCR-2.0-hf"
    assert PictureSettings.read(folder, 1024) == PictureSettings(side=1024)


def test_tied_says_the_outermost() -> None:
    config = made.config_of("tiles")
    assert not GotConfig.read(config).text.tie_word_embeddings
    assert GotConfig.read(config | {"tie_word_embeddings": True}).text.tie_word_embeddings
    del config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]
    assert GotConfig.read(config).text.tie_word_embeddings


# --- declaration, and the whole way


def test_recipe_spares_the_tower() -> None:
    tower, projector = "model.vision_tower_high.blocks.0.attn.qkv", "model.mm_projector_vary"
    layer, words = "model.layers.0.mlp.up_proj", "model.embed_tokens"
    assert [FAMILY.recipe(path, False) for path in (tower, projector, layer, words)] == [False, False, True, True]
    assert [FAMILY.recipe(path, True) for path in (tower, projector, layer, words)] == [False, False, True, {"bits": 8}]


def test_aliases_lead_to_checkpoints() -> None:
    assert set(FAMILY.aliases.values()) <= set(FAMILY.checkpoints) == set(FAMILY.sizes)
    assert {"got", "got-ocr"} <= FAMILY.aliases.keys()
    assert FAMILY.default_mode in FAMILY.modes
    assert all(name == mode.name for name, mode in MODES.items())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return made.write("windows", tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.parametrize(
    ("mode", "prompt"),
    [("ocr", ""), ("crop", ""), ("box", "10,10,200,300"), ("color-format", "red"), ("ocr", "What? ")],
)
def test_a_picture_goes_all_the_way(model: ModelRef, mode: str, prompt: str, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    Image.fromarray(got_made.picture("grey")).save(path)
    found = ocr_mlx.read(path, model=str(model.path), mode=mode, prompt=prompt, max_new_tokens=6)
    (result,) = found.pages
    assert result.status in (PageStatus.OK, PageStatus.TRUNCATED, PageStatus.BLANK), result.error
    assert result.prompt_tokens > 16


def test_a_bad_box_says_what_is_allowed(model: ModelRef, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    Image.fromarray(got_made.picture("grey")).save(path)
    with pytest.raises(InvalidOption, match="300 x 420"):
        ocr_mlx.read(path, model=str(model.path), mode="box", prompt="1,2,3")


def test_pages_of_a_document_go_into_one_prompt(model: ModelRef, tmp_path: Path) -> None:
    path = tmp_path / "pages.tiff"
    first, *others = (Image.fromarray(got_made.picture(name)) for name in ("page", "odd", "two_by_three"))
    first.save(path, save_all=True, append_images=others)
    (result,) = ocr_mlx.read(path, model=str(model.path), mode="multi-page", max_new_tokens=4).pages
    assert result.following == (1, 2)
    assert result.prompt_tokens > 3 * 16


def test_damage_of_the_whole_folder_is_named(tmp_path: Path) -> None:
    ref = made.write("windows", tmp_path / "model")
    (ref.path / tokens.RANKS).unlink()
    with pytest.raises(ModelError, match=r"qwen\.tiktoken"):
        load_model(ref, dtype="float32")
