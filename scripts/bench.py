"""Measures what README quotes: start-up, one page and eight pages of a full-size Nougat, memory, with and without OpenBLAS.

    python scripts/bench.py                                  everything that can be measured here
    python scripts/bench.py --torch-python PATH              and transformers on torch beside it (dependency group `reference`)
    python scripts/bench.py --only start                     one part

The checkpoint has nougat-small's size and random weights; the script makes it under `--out` (1 GB) and keeps it. Every figure
is taken in a process of its own, so that one part's memory and threads do not colour another's. Compare within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
PAGE_TOKENS = 800
BATCH = 8
SLOW_TOKENS = 16

BARE_APP = """
import sys, fastapi, uvicorn
app = fastapi.FastAPI()
@app.get("/livez")
async def livez() -> str:
    return "ok"
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


# --- start-up --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_alive(command: list[str], port: int) -> float:
    """Seconds from starting `command` to its first answer on /livez; the process is ended."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5):
                    return time.perf_counter() - started
            except OSError:
                time.sleep(0.002)
        raise RuntimeError(f"{command} ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait(timeout=60)


def measure_start(runs: int) -> dict[str, Any]:
    """Ours and a bare FastAPI app in turn; import time of the package."""
    ours, bare = [], []
    for _ in range(runs + 1):
        port = free_port()
        bare.append(until_alive([sys.executable, "-c", BARE_APP, str(port)], port))
        port = free_port()
        ours.append(until_alive([sys.executable, "-m", "ocr_mlx.endpoint", "--port", str(port)], port))
    code = "import time; t = time.perf_counter(); import ocr_mlx; print(time.perf_counter() - t)"
    imports = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(runs)]
    pairs = [a / b for a, b in zip(ours[1:], bare[1:], strict=True)]
    return {
        "livez_seconds": statistics.median(ours[1:]),
        "bare_seconds": statistics.median(bare[1:]),
        "ratio": statistics.median(pairs),
        "import_ms": statistics.median(imports) * 1000,
    }


# --- the checkpoint --------------------------------------------------------------------------------------------------


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


def picture(seed: int) -> Any:
    """A page of grey lines, different for every seed."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    pixels = np.full((1123, 794, 3), 255, np.uint8)
    for top in range(60, 1060, 20):
        pixels[top : top + 9, 60 : int(random.integers(400, 730))] = int(random.integers(0, 90))
    return Image.fromarray(pixels)


# --- the graph, in a child process -----------------------------------------------------------------------------------


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
    alone = [decode(model, inputs[i : i + 1], tokens) for i in range(2 if blas else 1)]
    together = decode(model, inputs, tokens) if blas else None
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


def decode(model: Any, inputs: list[Any], tokens: int) -> float:
    """Seconds to read the pictures and say exactly `tokens` tokens for each: random weights must not end or loop early."""
    import threading

    from ocr_mlx.domain import DecodeParams
    from ocr_mlx.inference.batch import DecodeBatch
    from ocr_mlx.inference.stopping import Row

    class Endless(Row):
        def _loop(self, token: int, max_logit: float) -> int | None:
            return None

    batch, said = DecodeBatch(model), []
    params, never = DecodeParams(max_new_tokens=tokens), threading.Event()
    options: Any = {"on_text": lambda *_: None, "on_done": said.append, "cancel": never}
    rows = [Endless(model, row, params, **options) for row in inputs]
    for row in rows:
        row._eos = frozenset()
    started = time.perf_counter()
    batch.join(rows)
    while batch.rows:
        batch.step()
    seconds = time.perf_counter() - started
    if any(len(outcome.tokens) != tokens for outcome in said):
        raise RuntimeError("a row ended early; the figure would be wrong")
    return seconds


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


def median_of(runs: int, function: Any) -> float:
    """Median seconds of some calls."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def peak_mb() -> float:
    """This process's largest resident size so far."""
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


# --- the report ------------------------------------------------------------------------------------------------------


def run_child(python: str, kind: str, folder: Path) -> dict[str, Any]:
    """Run one part in its own process and read its figures."""
    command = [python, str(Path(__file__)), "--child", kind, "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    output = subprocess.check_output(command, env=environment, text=True)
    figures: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return figures


def has_torch(python: str) -> bool:
    """Whether that interpreter can run the reference."""
    return subprocess.run([python, "-c", "import torch, transformers"], capture_output=True).returncode == 0


def report(figures: dict[str, Any]) -> str:
    """The figures as markdown."""
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    ]
    if start := figures.get("start"):
        lines.append(
            f"- spawn to /livez {start['livez_seconds']:.2f} s, bare FastAPI + uvicorn {start['bare_seconds']:.2f} s, "
            f"ratio {start['ratio']:.2f}; import ocr_mlx {start['import_ms']:.0f} ms"
        )
    columns = {key: value for key, value in figures.items() if key != "start"}
    if columns:
        lines += ["", "| nougat-small, random weights, float32 | " + " | ".join(columns) + " |"]
        lines.append("|---|" + "---|" * len(columns))
    names = ("first_token_seconds", "tokens_per_second", "pages_per_second", "batch_pages_per_second", "load_seconds")
    for name in (*names, "weights_mb", "peak_mb") if columns else ():
        cells = [f"{c[name]:.3g}" if c.get(name) else "-" for c in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Measure what was asked for, print it, keep it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "bench-output")
    parser.add_argument("--only", choices=["start", "nougat"], help="measure only this part")
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter with torch and transformers")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--child", choices=["openblas", "reference-blas", "torch"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child = (
            child_torch(options.out)
            if options.child == "torch"
            else child_ours(options.out, options.child == "openblas")
        )
        print(json.dumps(child))
        return 0
    figures: dict[str, Any] = {}
    if options.only != "nougat":
        figures["start"] = measure_start(options.runs)
    if options.only != "start":
        folder = options.out / "nougat-small-random"
        make_checkpoint(folder)
        figures["openblas"] = run_child(sys.executable, "openblas", folder)
        figures["reference-blas"] = run_child(sys.executable, "reference-blas", folder)
        if has_torch(options.torch_python):
            figures["torch"] = run_child(options.torch_python, "torch", folder)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1))
    print(report(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
