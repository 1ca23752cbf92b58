"""Nougat-small with random weights: ours, the plain port and transformers on torch, which take turns in one run.

Every side reads the same checkpoint and the same pictures. Ours decodes through the batch that the server uses; nothing ends
before its tokens are said. The plain port runs in our process, so it has our BLAS, and its logits are compared with ours.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmark.common import decode, peak_mb, picture
from scripts.benchmark.memory import read_speeds, step_figures, step_megabytes
from scripts.benchmark.pieces import STEP, VISION, owners, shares
from scripts.benchmark.talk import Call, Child

BATCH = 8
ALONE = 2
"""Pages that are read one by one, to know how long all of them would take."""
COMPARED = 4
NEAR = 1e-4
UNREAD = ("encoder.", "embed_positions", "encoder_attn.k_proj", "encoder_attn.v_proj")
"""Tensors that no decode step reads."""


def nougat_config(tiny: bool = False) -> dict[str, Any]:
    """The sizes of facebook/nougat-small; or tiny ones, to try the scripts."""
    config = _nougat_small()
    if tiny:
        config["encoder"] |= {"image_size": [112, 84], "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4]}
        config["decoder"] |= {"d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
        config["decoder"] |= {"max_position_embeddings": 1024, "vocab_size": 500}
        config["encoder"]["hidden_size"] = 64
    return config


def _nougat_small() -> dict[str, Any]:
    encoder = {
        "model_type": "donut-swin",
        "image_size": [896, 672],
        "patch_size": 4,
        "num_channels": 3,
        "embed_dim": 128,
    }
    encoder |= {
        "depths": [2, 2, 14, 2],
        "num_heads": [4, 8, 16, 32],
        "window_size": 7,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
    }
    encoder |= {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_absolute_embeddings": False, "hidden_size": 1024}
    decoder = {"model_type": "mbart", "d_model": 1024, "decoder_layers": 4, "decoder_attention_heads": 16}
    decoder |= {"decoder_ffn_dim": 4096, "max_position_embeddings": 3584, "vocab_size": 50000, "scale_embedding": True}
    decoder |= {
        "activation_function": "gelu",
        "add_cross_attention": True,
        "is_decoder": True,
        "add_final_layer_norm": True,
    }
    decoder |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    return {
        "architectures": ["VisionEncoderDecoderModel"],
        "model_type": "vision-encoder-decoder",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "encoder": encoder,
        "decoder": decoder,
    }


def make_checkpoint(folder: Path, tiny: bool = False) -> None:
    """Random weights under the published names and layouts, with the files a checkpoint has beside them."""
    tokenizer = folder / "tokenizer.json"
    if (folder / "model.safetensors").exists() and tokenizer.exists():
        return
    import numpy as np
    from mlx.utils import tree_flatten
    from safetensors.numpy import save_file

    from ocr_mlx.model.registry import family_for

    config = nougat_config(tiny)
    graph: Any = family_for(config).build(config)
    random = np.random.default_rng(0)
    weights = {}
    for name, array in tree_flatten(graph.parameters()):
        shape = array.shape if array.ndim != 4 else tuple(array.shape[i] for i in (0, 3, 1, 2))
        ones = "norm" in name and name.endswith("weight")
        weights[name] = (
            np.ones(shape, np.float32) if ones else random.standard_normal(shape, np.float32) * np.float32(0.02)
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    height, width = config["encoder"]["image_size"]
    picture_settings = {"image_processor_type": "NougatImageProcessor", "size": {"height": height, "width": width}}
    (folder / "preprocessor_config.json").write_text(json.dumps(picture_settings))
    word_tokenizer(config["decoder"]["vocab_size"]).save(str(tokenizer))
    save_file(weights, folder / "model.safetensors.part", {"format": "pt"})
    (folder / "model.safetensors.part").rename(folder / "model.safetensors")


def word_tokenizer(size: int) -> Any:
    """A vocabulary of that many words, Nougat's special tokens first."""
    from tokenizers import Tokenizer, models

    names = ["<s>", "<pad>", "</s>", "<unk>", "[START_REF]", "[END_REF]", "[IMAGE]", "<fragments>", "</fragments>"]
    names += [f"w{i}" for i in range(size - len(names))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.add_special_tokens(names[:9])
    return tokenizer


def calls_ours(folder: Path, blas: bool, plain: bool) -> dict[str, Call]:
    """What the process with our graph, and the plain port beside it, can be asked."""
    from ocr_mlx.utils.blas import blas_in_use, load_blas

    load_blas(blas)
    import mlx.core as mx

    from ocr_mlx.domain import ModelRef
    from ocr_mlx.model.load import load_model

    started = time.perf_counter()
    model = load_model(ModelRef(id="bench", path=folder), dtype="float32")
    loaded = time.perf_counter() - started
    inputs = [prepared_row(model, seed) for seed in range(BATCH)]
    pixels = mx.array(inputs[0].pixels)[None]
    graph: Any = model.graph

    def rows(count: int, tokens: int) -> dict[str, float]:
        said = decode(model, inputs[:count], tokens)
        return {"first": said.first, "seconds": said.seconds}

    def about() -> dict[str, Any]:
        device = {"blas": blas_in_use(), "device": str(mx.default_device())}
        weights = {"weights_mb": model.bytes / 1e6, "step_mb": step_megabytes(folder, UNREAD)}
        return device | weights | {"load_seconds": loaded}

    def profile() -> dict[str, dict[str, float]]:
        _, state = graph.prefill(inputs[:1])
        token = mx.array([[10]])
        return {
            "vision": shares(lambda: mx.eval(graph.encode(pixels)), owners(VISION)),
            "step": shares(lambda: mx.eval(graph.decode(token, state)), owners(STEP), runs=20),
        }

    ours: dict[str, Call] = {
        "profile": profile,
        "about": about,
        "ours_vision": lambda: _seconds(lambda: mx.eval(graph.encode(pixels))),
        "ours_rows": rows,
        "read_speeds": read_speeds,
        "peak": peak_mb,
    }
    return ours | (_calls_plain(folder, model, inputs[0]) if plain else {})


def _calls_plain(folder: Path, model: Any, row: Any) -> dict[str, Call]:
    """The same page through the plain port."""
    import mlx.core as mx
    from scripts.benchmark.plain_nougat import PlainNougat

    port, start = PlainNougat(folder), row.token_ids[0]
    pixels = mx.array(row.pixels)[None]

    def rows(count: int, tokens: int) -> dict[str, float]:
        if count != 1:
            raise RuntimeError("the plain port reads one page at a time")
        started, first = time.perf_counter(), 0.0
        encoded, cache, token = port.encode(pixels), None, start
        for said in range(tokens):
            logits, cache = port.step(mx.array([token]), cache, encoded)
            token = int(mx.argmax(logits[:, -1], axis=-1).item())
            first = first if said else time.perf_counter() - started
        return {"first": first, "seconds": time.perf_counter() - started}

    def difference() -> float:
        logits, state = model.graph.prefill([row])
        encoded, found, cache = port.encode(pixels), 0.0, None
        for step in range(COMPARED):
            token = start if step == 0 else step + 10
            if step:
                logits = model.graph.decode(mx.array([[token]]), state)[:, -1]
            plain, cache = port.step(mx.array([token]), cache, encoded)
            found = max(found, float(mx.abs(plain[:, -1] - logits).max().item()))
        return found

    def vision() -> float:
        return _seconds(lambda: mx.eval(port.encode(pixels)))

    return {"plain_vision": vision, "plain_rows": rows, "difference": difference}


def prepared_row(model: Any, seed: int) -> Any:
    """One page as the family's processor makes it."""
    from ocr_mlx.domain import Page, Prompt

    image = picture(seed)
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=96.0, origin="image")
    mode = model.family.modes[model.family.default_mode]
    return model.processor.prepare(page, Prompt(), mode).rows[0]


def calls_torch(folder: Path) -> dict[str, Call]:
    """The same checkpoint and pictures through transformers, as its users would run it."""
    import torch
    from transformers import VisionEncoderDecoderModel
    from transformers.models.nougat.image_processing_pil_nougat import NougatImageProcessorPil

    model = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    shape = model.config.encoder.image_size
    height, width = shape if isinstance(shape, list | tuple) else (shape, shape)
    processor = NougatImageProcessorPil(size={"height": height, "width": width})
    pixels = processor([picture(seed) for seed in range(BATCH)], return_tensors="pt")["pixel_values"]
    options = {"decoder_start_token_id": 0, "bos_token_id": 0, "eos_token_id": None, "pad_token_id": 1}

    def rows(count: int, tokens: int) -> dict[str, float]:
        times = [time.perf_counter()]

        def note(ids: Any, scores: Any) -> Any:
            times.append(time.perf_counter())
            return scores

        with torch.inference_mode():
            limits = {"min_new_tokens": tokens, "max_new_tokens": tokens, "use_cache": True, "do_sample": False}
            model.generate(pixels[:count], logits_processor=[note], **limits, **options)
        if len(times) != tokens + 1:
            raise RuntimeError("torch ended early; the figure would be wrong")
        return {"first": times[1] - times[0], "seconds": time.perf_counter() - times[0]}

    def vision() -> float:
        with torch.inference_mode():
            return _seconds(lambda: model.encoder(pixels[:1]))

    return {"torch_vision": vision, "torch_rows": rows, "peak": peak_mb}


def measure(ours: Child, torch: Child | None, *, tokens: int, rounds: int) -> dict[str, Any]:
    """The vision pass and `tokens` tokens of one page, the sides in turn; medians.

    Raises RuntimeError where the plain port's logits are not ours.
    """
    difference = ours.ask("difference")
    if not difference < NEAR:
        raise RuntimeError(f"the plain port's logits differ by {difference:.1e}; it is no yardstick")
    sides = {"ours": ours, "plain": ours} | ({"torch": torch} if torch else {})
    looking = {name: partial(child.ask, f"{name}_vision") for name, child in sides.items()}
    reading = {name: partial(child.ask, f"{name}_rows", count=1, tokens=tokens) for name, child in sides.items()}
    vision, pages = _in_turn(looking, rounds + 1), _in_turn(reading, rounds)
    figures: dict[str, Any] = {
        name: {
            "vision_seconds": statistics.median(vision[name][1:]),
            "first_token_seconds": statistics.median(page["first"] for page in pages[name]),
            "tokens_per_second": statistics.median(_pace(page, tokens) for page in pages[name]),
        }
        for name in sides
    }
    figures["ours"] |= ours.ask("about") | {"difference": difference}
    return figures | {"tokens": tokens}


def measure_batch(ours: Child, torch: Child | None, *, tokens: int) -> dict[str, Any]:
    """Pages of `tokens` tokens: one by one, and eight as one batch, the sides in turn."""
    figures: dict[str, Any] = {}
    for name, child in {"ours": ours, "torch": torch}.items():
        if child is None:
            continue
        alone = [
            child.ask(f"{name}_rows", count=1, tokens=tokens)["seconds"] for _ in range(ALONE if child is ours else 1)
        ]
        together = child.ask(f"{name}_rows", count=BATCH, tokens=tokens)["seconds"]
        figures[name] = {"pages_per_second": 1 / statistics.mean(alone), "batch_pages_per_second": BATCH / together}
        figures[name]["peak_mb"] = child.ask("peak")
    return figures | {"tokens": tokens}


def measure_step(ours: Child, *, tokens: int, rounds: int) -> dict[str, Any]:
    """A decode step beside reading its weights once, as fast as this machine reads at all; both in turn."""
    found = _in_turn(
        {"speeds": lambda: ours.ask("read_speeds"), "page": lambda: ours.ask("ours_rows", count=1, tokens=tokens)},
        rounds,
    )
    speeds = {way: statistics.median(one[way] for one in found["speeds"]) for way in found["speeds"][0]}
    step = statistics.median(1 / _pace(page, tokens) for page in found["page"])
    return step_figures(ours.ask("about")["step_mb"], speeds, step)


def _in_turn(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def _pace(page: dict[str, float], tokens: int) -> float:
    """Tokens a second behind the first one."""
    return (tokens - 1) / (page["seconds"] - page["first"])


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
