"""Nougat-small with random weights: one page and eight, through the server's own batch, and through transformers."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

from scripts.benchmark.common import decode, median_of, peak_mb, picture

PAGE_TOKENS = 800
BATCH = 8
SLOW_TOKENS = 16


def nougat_small_config() -> dict[str, Any]:
    """The sizes of facebook/nougat-small."""
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


def make_checkpoint(folder: Path) -> None:
    """Random weights under the published names and layouts, with the files a checkpoint has beside them."""
    if (folder / "model.safetensors").exists():
        return
    import mlx.core as mx
    import numpy as np
    from mlx.utils import tree_flatten
    from safetensors.numpy import save_file

    from ocr_mlx.model.registry import family_for

    config = nougat_small_config()
    graph: Any = family_for(config).build(config)
    random = np.random.default_rng(0)
    weights = {}
    for name, array in tree_flatten(graph.parameters()):
        shape = array.shape if array.ndim != 4 else tuple(array.shape[i] for i in (0, 3, 1, 2))
        ones = "norm" in name and name.endswith("weight")
        weights[name] = (
            np.ones(shape, np.float32) if ones else random.standard_normal(shape, np.float32) * np.float32(0.02)
        )
    del mx
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "NougatImageProcessor", "size": {"height": 896, "width": 672}})
    )
    word_tokenizer(50000).save(str(folder / "tokenizer.json"))
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


def child_ours(folder: Path, blas: bool) -> dict[str, Any]:
    """Load, read one page, then several, through the same batch that the server uses."""
    from ocr_mlx.utils.blas import blas_in_use, load_blas

    load_blas(blas)
    import mlx.core as mx

    from ocr_mlx.domain import ModelRef
    from ocr_mlx.model.load import load_model

    started = time.perf_counter()
    model = load_model(ModelRef(id="bench", path=folder), dtype="float32")
    loaded = time.perf_counter() - started
    inputs = [prepared_row(model, seed) for seed in range(BATCH)]
    mx.eval(model.graph.prefill(inputs[:1])[0])
    vision = median_of(3 if blas else 1, lambda: mx.eval(model.graph.prefill(inputs[:1])[0]))
    tokens = PAGE_TOKENS if blas else SLOW_TOKENS
    alone = [decode(model, inputs[i : i + 1], tokens)[1] for i in range(2 if blas else 1)]
    together = decode(model, inputs, tokens)[1] if blas else None
    return {
        "blas": blas_in_use(),
        "load_seconds": loaded,
        "first_token_seconds": vision,
        "tokens_per_second": tokens / (statistics.mean(alone) - vision),
        "pages_per_second": 1 / statistics.mean(alone) if blas else None,
        "batch_pages_per_second": BATCH / together if together else None,
        "weights_mb": model.bytes / 1e6,
        "peak_mb": peak_mb(),
    }


def prepared_row(model: Any, seed: int) -> Any:
    """One page as the family's processor makes it."""
    from ocr_mlx.domain import Page, Prompt

    image = picture(seed)
    page = Page(index=0, image=image, width=image.width, height=image.height, dpi=96.0, origin="image")
    mode = model.family.modes[model.family.default_mode]
    return model.processor.prepare(page, Prompt(), mode).rows[0]


def child_torch(folder: Path) -> dict[str, Any]:
    """The same checkpoint and pictures through transformers, as its users would run it."""
    import torch
    from transformers import VisionEncoderDecoderModel
    from transformers.models.nougat.image_processing_pil_nougat import NougatImageProcessorPil

    model = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = NougatImageProcessorPil()
    pixels = processor([picture(seed) for seed in range(BATCH)], return_tensors="pt")["pixel_values"]
    options = {
        "decoder_start_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": 1,
        "do_sample": False,
    }

    def generate(batch: Any, tokens: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(batch, min_new_tokens=tokens, max_new_tokens=tokens, use_cache=True, **options)
        if out.shape[1] < tokens:
            raise RuntimeError("torch ended early; the figure would be wrong")
        return time.perf_counter() - started

    generate(pixels[:1], 2)
    first = median_of(3, lambda: generate(pixels[:1], 1))
    alone = generate(pixels[:1], PAGE_TOKENS)
    together = generate(pixels, PAGE_TOKENS)
    return {
        "first_token_seconds": first,
        "tokens_per_second": PAGE_TOKENS / (alone - first),
        "pages_per_second": 1 / alone,
        "batch_pages_per_second": BATCH / together,
        "peak_mb": peak_mb(),
    }
