"""What the files for deployment and the pages about it name must exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from ocr_mlx.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OF_COMPOSE = {"OCR_MLX_WORKER_ROWS"}
"""Variables that only compose itself reads."""


def known() -> set[str]:
    names = {spec.metadata["name"] for spec in fields(Settings)}
    return names | {alias for spec in fields(Settings) for alias in spec.metadata["aliases"]} | OF_COMPOSE


@pytest.mark.parametrize("name", ["deploy/compose.yaml", "deploy/Dockerfile", "docs/remote.md", "docs/capacity.md"])
def test_settings_that_are_named_exist(name: str) -> None:
    named = set(re.findall(r"\b(?:OCR_MLX_[A-Z_]+|MODEL_SOURCE|VLLM_ENDPOINT)\b", (ROOT / name).read_text("utf-8")))
    assert named
    assert named <= known()


def test_the_capacity_plan_is_right_about_itself_and_the_readme_says_the_same() -> None:
    plan = (ROOT / "docs" / "capacity.md").read_text("utf-8").partition("## Side by side")[2]
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d,]+) \| ([\d,]+) \|$", plan, re.MULTILINE)
    assert len(rows) == 6
    for name, a_second, busy, planned in rows:
        a_day = int(busy.replace(",", ""))
        assert float(a_second) * 86_400 == pytest.approx(a_day, rel=0.03), name
        assert 0.7 * a_day == pytest.approx(int(planned.replace(",", "")), rel=0.05), name
    told = (ROOT / "README.md").read_text("utf-8").partition("On paper, at 800 tokens a page")[2].partition("##")[0]
    assert set(re.findall(r"\d+,000", told)) <= {planned for *_, planned in rows}


def test_the_composition_is_whole() -> None:
    composed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    services = composed["services"]
    assert set(services) == {"server", "redis", "worker", "vllm"}
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        mounted = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert mounted <= set(composed["volumes"])
    assert services["server"]["environment"]["OCR_MLX_TOKEN"].startswith("${OCR_MLX_TOKEN:?")  # others can reach it
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])
    assert (DEPLOY / services["server"]["build"]["dockerfile"].removeprefix("deploy/")).is_file()


def test_the_image_copies_what_exists_and_asks_livez() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8")
    for copied in re.findall(r"^COPY (.+) \S+$", lines, re.MULTILINE):
        assert all((ROOT / part).exists() for part in copied.split())
    assert "/livez" in lines and "USER ocr" in lines
