from __future__ import annotations

import pytest

from ocr_mlx.engine.budget import Claim, check_pinned, check_size, excludes, leaving
from ocr_mlx.errors import OutOfMemory

MIB = 2**20


def claim(key: str, size: int, used: float = 0.0, *, idle: bool = True, pinned: bool = False) -> Claim:
    return Claim(key=key, size=size, used=used, idle=idle, pinned=pinned)


@pytest.mark.parametrize(
    ("size", "claims", "gone"),
    [
        (10, [], []),
        (11, [], None),
        (4, [claim("a", 6)], []),
        (5, [claim("a", 6)], ["a"]),
        (5, [claim("a", 3, 2), claim("b", 3, 1)], ["b"]),
        (8, [claim("a", 3, 2), claim("b", 3, 1)], ["b", "a"]),
        (5, [claim("a", 6, idle=False)], None),
        (4, [claim("a", 6, idle=False)], []),
        (5, [claim("a", 6, pinned=True)], None),
        (5, [claim("a", 3, 1, pinned=True), claim("b", 3, 2)], ["b"]),
        (6, [claim("a", 4, 1, idle=False), claim("b", 1, 2), claim("c", 1, 3)], ["b", "c"]),
        (9, [claim("a", 4, 1, idle=False), claim("b", 3, 2)], None),
        (8, [claim("small", 1, 1), claim("large", 8, 2)], ["large"]),
        (0, [claim("a", 12, 2, idle=False), claim("b", 3, 1)], None),
        (0, [claim("a", 8, 2, idle=False), claim("b", 3, 1)], ["b"]),
    ],
)
def test_who_goes(size: int, claims: list[Claim], gone: list[str] | None) -> None:
    assert leaving(size, claims, 10) == gone
    assert leaving(size, claims, None) == []


def test_what_is_too_large_even_alone_says_by_how_much() -> None:
    check_size(10 * MIB, 10 * MIB)
    check_size(10 * MIB, None)
    with pytest.raises(OutOfMemory) as told:
        check_size(10 * MIB + 1, 10 * MIB)
    assert told.value.message == "The model takes 11 MiB of memory, and models may fill 10 MiB."
    assert "OCR_MLX_MEMORY_MB to 11" in told.value.hint


def test_what_pinned_models_keep_out_says_so() -> None:
    claims = [claim("a", 4 * MIB, pinned=True), claim("b", 3 * MIB, pinned=True, idle=False), claim("c", 3 * MIB)]
    check_pinned(3 * MIB, claims, 10 * MIB)
    check_pinned(4 * MIB, claims, None)
    with pytest.raises(OutOfMemory) as told:
        check_pinned(4 * MIB, claims, 10 * MIB)
    assert "pinned models hold 7 MiB" in told.value.message and "4 MiB" in told.value.message
    assert "evict" in told.value.hint and "OCR_MLX_MEMORY_MB to 11" in told.value.hint


def test_who_excludes_whom() -> None:
    claims = [claim("a", 2, pinned=True), claim("b", 100)]
    assert not excludes(4, 4, claims, 10)
    assert excludes(4, 5, claims, 10)
    assert not excludes(4, 5, claims, None)
