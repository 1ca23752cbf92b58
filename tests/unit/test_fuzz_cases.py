"""Every kept input of `scripts/fuzz.py` through its target, as plain calls: where fuzzing begins, and what it once broke."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import fuzzing

CASES = Path(__file__).parents[1] / "resources" / "fuzz"


def test_every_target_has_inputs_to_begin_with_and_every_folder_is_a_targets() -> None:
    assert sorted(path.name for path in CASES.iterdir()) == sorted(fuzzing.names())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzzing.names())
def test_the_kept_inputs_break_nothing(name: str) -> None:
    one = fuzzing.function(name)
    for path in sorted((CASES / name).iterdir()):
        try:
            one(path.read_bytes())
        except Exception as error:
            pytest.fail(f"python scripts/fuzz.py {name} {path}: {type(error).__name__}: {error}")
