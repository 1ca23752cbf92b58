from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ocr_mlx.engine import device
from ocr_mlx.engine.device import Device, _group_limits, machine_memory, models_memory

UNLIMITED = "9223372036854771712"


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/app\n", {"app/memory.max": "500\n"}, {500}),
        ("0::/app/part\n", {"app/memory.max": "500\n", "app/part/memory.max": "max\n"}, {500}),
        ("0::/app/part\n", {"app/memory.max": "500\n", "app/part/memory.max": "300\n"}, {300, 500}),
        ("0::/\n", {"memory.max": "700\n"}, {700}),
        ("0::/\n", {}, set()),
        ("0::/on/the/host\n", {"memory.max": "700\n"}, {700}),
        ("4:cpu,memory:/docker/x\n1:pids:/\n0::/\n", {"memory/memory.limit_in_bytes": "900\n"}, {900}),
        ("4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": UNLIMITED}, {int(UNLIMITED)}),
        ("3:memoryless:/x\n", {"memory/x/memory.limit_in_bytes": "5"}, set()),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, membership: str, files: dict[str, str], limits: set[int]) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    assert set(_group_limits(tmp_path / "cgroup", tmp_path / "fs")) == limits


def test_machines_without_control_groups(tmp_path: Path) -> None:
    assert list(_group_limits(tmp_path / "none", tmp_path)) == []


def test_a_container_has_less_than_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_group_limits", lambda *_: iter((10**9, 5 * 10**8)))
    assert machine_memory() == 5 * 10**8
    monkeypatch.setattr(device, "_group_limits", lambda *_: iter(()))
    assert machine_memory() == psutil.virtual_memory().total


def test_models_get_three_quarters_of_the_devices_memory_or_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "machine_memory", lambda: 400)
    monkeypatch.setattr(device, "default_device", lambda: Device(name="gpu", detail="", memory=1000))
    assert models_memory() == 750
    monkeypatch.setattr(device, "default_device", lambda: Device(name="cpu", detail="", memory=None))
    assert models_memory() == 300
