from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ocr_mlx.errors import UnknownModel, UnsupportedArchitecture
from ocr_mlx.model import registry
from tests.unit.model.tiny import TINY


def test_a_config_finds_its_family_by_model_type() -> None:
    assert registry.family_for({"model_type": "tiny"}).name == "tiny"


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": ["tiny"]}, {"model_type": "bert"}])
def test_another_config_is_refused_and_told_what_there_is(config: dict[str, object]) -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"Supported are tiny \(tiny\)"):
        registry.family_for(config)


def test_a_family_may_want_an_architecture_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    picky = replace(TINY, name="picky", architectures=("PickyForReading", "OldPicky"))
    monkeypatch.setattr(registry, "families", lambda: (picky, TINY))
    named = {"model_type": "tiny", "architectures": ["PickyForReading"]}
    assert registry.family_for(named).name == "picky"
    assert registry.family_for({"model_type": "tiny"}).name == "picky"
    assert registry.family_for({"model_type": "tiny", "architectures": ["TinyForChat"]}).name == "tiny"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("tiny", "someone/tiny"),
        (" TINY ", "someone/tiny"),
        ("else/where", "else/where"),
        ("else/where@v1", "else/where@v1"),
        ("Tiny@v1", "someone/tiny@v1"),
        ("./a@folder", "./a@folder"),
        ("/a/b", "/a/b"),
        ("~/x", "~/x"),
        ("a/b/c", "a/b/c"),
        ("Builtin", str(Path(registry.__file__).parents[1] / "builtin")),
    ],
)
def test_names_are_resolved(name: str, target: str) -> None:
    assert registry.resolve_name(name) == target


@pytest.mark.parametrize("name", ["", "tony", "someone/", "@v1"])
def test_an_unknown_word_lists_the_names(name: str) -> None:
    with pytest.raises(UnknownModel, match=r"Short names are builtin, tiny"):
        registry.resolve_name(name)


def test_near_matches_are_offered() -> None:
    with pytest.raises(UnknownModel, match=r"Did you mean tiny\?"):
        registry.resolve_name("tinny")
    with pytest.raises(UnknownModel) as caught:
        registry.resolve_name("zzz")
    assert "Did you mean" not in str(caught.value)


REAL = """
import sys
from fnmatch import fnmatch
from ocr_mlx.model import registry
families = registry.families()
assert families, "the families folder is empty"
aliases = [alias.lower() for family in families for alias in family.aliases]
assert len(set(aliases)) == len(aliases) and registry.BUILTIN not in aliases, aliases
for family in families:
    assert set(family.aliases.values()) <= set(family.checkpoints), family.name
    assert family.default_mode in family.modes and family.licence, family.name
    assert any(fnmatch("config.json", pattern) for pattern in family.files), family.name
heavy = [name for name in ("mlx.core", "tokenizers", "PIL", "huggingface_hub") if name in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.process
def test_listing_the_real_families_is_cheap_and_their_names_are_their_own() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_path_can_have_is_unknown(name: str) -> None:
    assert registry.is_folder_name(name) is False
    with pytest.raises(UnknownModel):
        registry.resolve_name(name)
