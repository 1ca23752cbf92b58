"""An idle model gives its memory back to the system, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

CHILD = """
import json, sys, time
from pathlib import Path

from ocr_mlx.settings import Settings
from ocr_mlx.engine.build import build_service
import psutil

folder = sys.argv[1]
resident = lambda: psutil.Process().memory_info().rss / 1e6
service = build_service(Settings.from_env({"OCR_MLX_KEEP_ALIVE": "0.3"}).engine_options())
import mlx.core as mx
mx.eval(mx.ones((256, 256)) @ mx.ones((256, 256)))

figures = []
for _ in range(2):
    before = resident()
    with service.cache.lease(folder) as model:
        held, size = resident(), model.bytes / 1e6
    del model
    deadline = time.monotonic() + 20
    while service.cache.snapshot() and time.monotonic() < deadline:
        time.sleep(0.02)
    service._worker.call(lambda: None).result()
    (*_, gone) = service.cache.memory().evictions
    figures.append({"before": before, "held": held, "after": resident(), "weights": size, "released": gone.released / 1e6})
service.close()
print(json.dumps(figures))
"""


def make_checkpoint(folder: Path) -> None:
    """About 240 MB of random weights in a Nougat of middling size."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from scripts.benchmark.nougat import nougat_config, word_tokenizer

    from ocr_mlx.model.registry import family_for

    config = nougat_config()
    config["encoder"] |= {"embed_dim": 96, "depths": [2, 2, 2, 2], "num_heads": [3, 6, 12, 24], "hidden_size": 768}
    config["decoder"] |= {"d_model": 768, "decoder_layers": 2, "decoder_attention_heads": 12, "vocab_size": 16000}
    graph = family_for(config).build(config)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(graph.parameters())))  # type: ignore[attr-defined]
    (folder / "config.json").write_text(json.dumps(config))
    size = {"height": 896, "width": 672}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "NougatImageProcessor", "size": size})
    )
    word_tokenizer(16000).save(str(folder / "tokenizer.json"))


@pytest.mark.slow
def test_idle_eviction_returns_the_memory(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OCR_MLX_")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    for figures in json.loads(done.stdout.splitlines()[-1]):
        assert figures["weights"] > 150, figures
        assert figures["held"] - figures["before"] > 0.8 * figures["weights"], figures
        assert figures["after"] - figures["before"] < 60, figures
        assert abs(figures["held"] - figures["after"] - figures["released"]) < 60, figures
