"""Nougat under transformers: tiny models stage by stage, pictures, post-processing, the repetition test."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import DonutSwinConfig, MBartConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel
from transformers.models.nougat.image_processing_pil_nougat import NougatImageProcessorPil

from references import _nougat_full_size as full_size_run
from references import _nougat_text as nougat_text
from tests.families import nougat_made, seeded

START, PAD, END, UNKNOWN = 0, 1, 2, 3
LEAST_MARGIN = 1e-3
"""Greedy ids are only a fair golden where the best token leads by more than rounding."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny model: the two configs, how many pictures, how many teacher-forced and how many greedy tokens."""

    name: str
    seed: int
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    batch: int = 1
    forced: int = 12
    greedy: int = 16
    suppressed: tuple[int, ...] = (UNKNOWN,)


CASES = (
    # 63x49 patches -> 32x25 -> 16x13 -> 8x7: odd merges, padded windows, shifted masks, a grid as small as the window.
    Case(
        name="odd_grids",
        seed=22,
        batch=2,
        encoder={"image_size": [252, 196], "embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]},
        decoder={
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "d_model": 64,
            "max_position_embeddings": 64,
            "vocab_size": 150,
            "scale_embedding": True,
        },
    ),
    # Places, one plane, oblong patches, no query bias, and a projection between two widths.
    Case(
        name="places",
        seed=19,
        batch=2,
        encoder={
            "image_size": [32, 80],
            "patch_size": [4, 2],
            "num_channels": 1,
            "embed_dim": 12,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 3,
            "use_absolute_embeddings": True,
            "qkv_bias": False,
            "mlp_ratio": 2.0,
        },
        decoder={
            "decoder_layers": 3,
            "decoder_attention_heads": 3,
            "decoder_ffn_dim": 40,
            "d_model": 36,
            "max_position_embeddings": 48,
            "vocab_size": 90,
            "activation_function": "relu",
        },
    ),
    # Two rows, longer than the cache's first buffer; they may not end.
    Case(
        name="long_decode",
        seed=27,
        batch=2,
        greedy=300,
        suppressed=(UNKNOWN, END),
        encoder={"image_size": [56, 84], "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2]},
        decoder={
            "decoder_layers": 2,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 32,
            "d_model": 16,
            "max_position_embeddings": 320,
            "vocab_size": 64,
            "scale_embedding": True,
        },
    ),
    # A picture that is no whole number of patches, one embedding for both ends, other activations.
    Case(
        name="tied",
        seed=33,
        encoder={
            "image_size": [110, 112],
            "embed_dim": 8,
            "depths": [2, 2, 2],
            "num_heads": [2, 2, 4],
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-3,
        },
        decoder={
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 48,
            "d_model": 32,
            "max_position_embeddings": 64,
            "vocab_size": 120,
            "activation_function": "silu",
            "scale_embedding": True,
            "tie_word_embeddings": True,
        },
    ),
)


def record(out: Path) -> None:
    """Write every golden under `out`."""
    os.environ["NLTK_DATA"] = "/nonexistent"
    for case in CASES:
        record_case(case, out / case.name)
    record_processor(out)
    nougat_text.record(out)


def record_case(case: Case, folder: Path) -> None:
    """Run one tiny model and store its config and stages."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny(case)
    config = model.config.encoder
    size = (case.batch, *config.image_size, config.num_channels)
    pixels = torch.from_numpy(seeded.normal("pixels", size, case.seed)).permute(0, 3, 1, 2)
    stages = run(model, pixels, case)
    save_file({name: np.ascontiguousarray(value) for name, value in stages.items()}, folder / "golden.safetensors")
    saved = json.loads(model.config.to_json_string(use_diff=False))
    saved["encoder"] = _lean(saved["encoder"], DonutSwinConfig, "donut-swin")
    saved["decoder"] = _lean(saved["decoder"], MBartConfig, "mbart")
    keep = ("encoder", "decoder", "is_encoder_decoder", "tie_word_embeddings", "architectures", "model_type")
    text = json.dumps({name: saved[name] for name in keep if name in saved} | {"seed": case.seed}, indent=1)
    (folder / "config.json").write_text(text + "\n")


def tiny(case: Case) -> VisionEncoderDecoderModel:
    """The case's model with seeded weights."""
    encoder = DonutSwinConfig(**case.encoder)
    flags = {"is_decoder": True, "is_encoder_decoder": False, "add_cross_attention": True, "tie_word_embeddings": False}
    decoder = MBartConfig(**(flags | case.decoder))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(config).eval()
    fill(model, case.seed)
    if encoder.use_absolute_embeddings:
        _add_places(model)
    return model


def fill(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter its seeded weights; a tied pair is one parameter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = seeded.weights([(name, tuple(parameter.shape))], seed)[name]
            parameter.copy_(torch.from_numpy(values))


def _add_places(model: VisionEncoderDecoderModel) -> None:
    # Upstream adds a table of one row too many and fails; its interpolation drops the first row, so do we.
    embeddings = model.encoder.embeddings
    table = embeddings.position_embeddings.detach().clone()
    embeddings.position_embeddings = None
    embeddings.norm.register_forward_hook(lambda module, inputs, output: output + table[:, 1:])


@torch.no_grad()
def run(model: VisionEncoderDecoderModel, pixels: torch.Tensor, case: Case) -> dict[str, np.ndarray]:
    """Every stage of one model: encoder, projection, teacher-forced logits, greedy ids."""
    vocabulary = model.config.decoder.vocab_size
    chosen = np.abs(seeded.normal("tokens", (case.batch, case.forced), case.seed) * 1e4).astype(np.int64) % vocabulary
    chosen[:, 0] = START
    encoded = model.encoder(pixels).last_hidden_state
    logits = model(pixel_values=pixels, decoder_input_ids=torch.from_numpy(chosen)).logits
    stages = {"encoder": encoded.numpy(), "tokens": chosen.astype(np.int32), "logits": logits.numpy()}
    if hasattr(model, "enc_to_dec_proj"):
        stages["projected"] = model.enc_to_dec_proj(encoded).numpy()
    ids = greedy(model, pixels, case.greedy, case.suppressed)
    margin = least_margin(model, pixels, ids, case.suppressed)
    print(
        f"{case.name}: greedy {tuple(ids.shape)}, {len(set(ids.flatten().tolist()))} different ids, margin {margin:.4f}"
    )
    if margin < LEAST_MARGIN:
        raise SystemExit(f"{case.name}: seed {case.seed} leaves a margin of {margin:.5f}; choose another")
    suppressed = np.array(case.suppressed, dtype=np.int32)
    return stages | {"greedy": ids.numpy().astype(np.int32), "suppressed": suppressed}


def greedy(
    model: VisionEncoderDecoderModel, pixels: torch.Tensor, count: int, suppressed: tuple[int, ...]
) -> torch.Tensor:
    """Upstream's own generate: greedy, never a suppressed id, at least one token; ids without the start."""
    model.generation_config.forced_eos_token_id = None
    return model.generate(
        pixels,
        decoder_start_token_id=START,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
        max_new_tokens=count,
        min_new_tokens=1,
        bad_words_ids=[[id_] for id_ in suppressed],
        do_sample=False,
    )[:, 1:]


@torch.no_grad()
def least_margin(
    model: VisionEncoderDecoderModel, pixels: torch.Tensor, ids: torch.Tensor, suppressed: tuple[int, ...]
) -> float:
    """By how much the chosen token leads the runner-up at the closest step."""
    start = torch.full((len(ids), 1), START)
    logits = model(pixel_values=pixels, decoder_input_ids=torch.cat([start, ids[:, :-1]], 1)).logits
    logits[..., list(suppressed)] = -torch.inf
    logits[:, 0, END] = -torch.inf
    best = logits.topk(2, -1).values
    live = torch.cumsum(ids == END, 1) - (ids == END).long() == 0
    return float((best[..., 0] - best[..., 1])[live].min())


def _lean(values: dict[str, Any], kind: type, model_type: str) -> dict[str, Any]:
    fields = kind().to_dict()
    general = set(MBartConfig.__mro__[1]().to_dict()) - {"tie_word_embeddings", "is_decoder", "add_cross_attention"}
    return {"model_type": model_type} | {
        name: v for name, v in values.items() if name in fields and name not in general
    }


# --- pictures --------------------------------------------------------------------------------------------------------


def record_processor(out: Path) -> None:
    """Upstream's pixel values for every picture: sums, and a sample of its grey levels."""
    processor = NougatImageProcessorPil()
    stored: dict[str, np.ndarray] = {}
    for name in nougat_made.SIZES:
        page = np.ascontiguousarray(nougat_made.picture(name).transpose(2, 0, 1))
        values = np.asarray(processor(page, input_data_format="channels_first", return_tensors="np")["pixel_values"][0])
        values = np.ascontiguousarray(values.transpose(1, 2, 0).astype(np.float32))
        stored[f"{name}.sample"] = nougat_made.sample(values)
        stored[f"{name}.rows"] = values.astype(np.float64).sum((1, 2)).astype(np.float32)
        stored[f"{name}.columns"] = values.astype(np.float64).sum((0, 2)).astype(np.float32)
    save_file(stored, out / "processor.safetensors")
    print(f"processor: {len(nougat_made.SIZES)} pictures")


# --- full size -------------------------------------------------------------------------------------------------------


def full_size(python: str) -> None:
    """Random nougat-small weights under torch and under our graph, one page, float32; needs about 4 GB."""
    full_size_run.compare(fill, python)
