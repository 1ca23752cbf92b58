"""Settings as the environment has them: a line each, NAME=value."""

from __future__ import annotations

from dataclasses import fields

from scripts.fuzzing.parts import text_of, typed

from ocr_mlx.settings import Settings

_NAMES = tuple(spec.metadata["name"] for spec in fields(Settings))


def one(data: bytes) -> None:
    """A line whose name is a number stands for the setting of that number."""
    environ = {}
    for line in text_of(data).replace("\0", "").split("\n"):
        name, _, value = line.partition("=")
        environ[_NAMES[int(name) % len(_NAMES)] if name.isdecimal() and len(name) < 5 else name] = value
    with typed():
        read = Settings.from_env(environ)
        Settings.unknown(environ)
        assert read.max_body_bytes > 0
        read.job_options()
