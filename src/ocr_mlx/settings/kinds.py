"""The kinds of values that settings have: how a variable's text becomes a value, and what is said when it cannot."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ocr_mlx.engine import remote
from ocr_mlx.errors import InvalidOption, OcrMlxError

PREFIX = "OCR_MLX_"
MEBIBYTE = 1024 * 1024
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]*")
"""As browsers send it: a scheme and a host, perhaps a port; `file://` is Electron's."""


class InvalidSetting(OcrMlxError):
    """A setting holds a value that it cannot have."""

    code = "invalid_setting"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How a setting's text becomes a value; `parse` raises ValueError, and `allowed` says what would be right."""

    parse: Callable[[str], Any]
    allowed: str
    secret: bool = False


def _flag(text: str) -> bool:
    low = text.lower()
    if low not in {"1", "0", "true", "false", "yes", "no", "on", "off"}:
        raise ValueError(text)
    return low in {"1", "true", "yes", "on"}


def integer(least: int, most: int) -> Kind:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return Kind(parse=parse, allowed=f"a whole number from {least} to {most}")


def number(least: float, allowed: str = "") -> Kind:
    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= 1e9:
            raise ValueError(text)
        return value

    return Kind(parse=parse, allowed=allowed or f"a number from {least:g} to 1e9")


def choice(*names: str) -> Kind:
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(text)
        return text.lower()

    return Kind(parse=parse, allowed=" or ".join(names))


def _token(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError
    return text


def _origins(text: str) -> tuple[str, ...]:
    if text.lower() == "none":
        return ()
    given = (part.strip().lower() for part in text.split(",") if part.strip())
    origins = tuple(origin if origin.endswith("://") else origin.removesuffix("/") for origin in given)
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError(text)
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if any("/" in host or " " in host for host in hosts):
        raise ValueError(text)
    return hosts


def _any_origins(text: str) -> tuple[str, ...]:
    return ("*",) if text.strip() == "*" else _origins(text)


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        parts = urlsplit(text)
        has_port = parts.port is None or parts.port > 0  # one that is no number raises ValueError
        if parts.scheme not in schemes or not has_port or (not parts.hostname and parts.scheme != "unix"):
            raise ValueError(text)
        return text

    return parse


def _engine(text: str) -> str:
    return _checked(text, lambda: remote.reference(text, "any"))


def _model(text: str) -> str:
    if not remote.is_reference(text):
        return text
    return remote.PREFIX + _checked(text, lambda: remote.parse(text))[len(remote.PREFIX) :]


def _checked(text: str, check: Callable[[], object]) -> str:
    try:
        check()
    except InvalidOption as error:
        raise ValueError(text) from error
    return text


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # the home of nobody
        raise ValueError(text) from None


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(_path(part) for part in text.split(os.pathsep) if part.strip())


FLAG = Kind(parse=_flag, allowed="1 or 0 (also true, false, yes, no, on, off)")
TEXT = Kind(parse=str, allowed="text")
TOKEN = Kind(parse=_token, allowed="printable ASCII without spaces", secret=True)
FOLDER = Kind(parse=_path, allowed="a folder")
FILE = Kind(parse=_path, allowed="a file")
FOLDERS = Kind(parse=_folders, allowed=f"folders, separated by '{os.pathsep}'")
ORIGINS = Kind(parse=_origins, allowed="origins such as https://app.example, separated by commas, or none; never *")
HOSTS = Kind(parse=_hosts, allowed="names, or name:port, separated by commas; * for every name")
ANY_ORIGINS = Kind(parse=_any_origins, allowed="origins such as https://app.example, separated by commas, or * alone")
ENGINE = Kind(
    parse=_engine, allowed="an address such as http://host:8000/v1, without a user or a password", secret=True
)
MODEL = Kind(
    parse=_model,
    allowed="an alias, a hub id, a folder, or openai+http://host:8000/v1#model without a user or a password",
    secret=True,
)
REDIS = Kind(parse=_url("redis", "rediss", "unix"), allowed="an address such as redis://host:6379/0", secret=True)
PROMPT = Kind(parse=lambda text: text.replace("\\n", "\n"), allowed="text; \\n is a line break")
PORT = integer(0, 65535)
COUNT = integer(1, 2**31)
TIME = number(0, "seconds, 0 or more")
IDLE = number(-1e9, "seconds; negative means for good")


def setting(
    name: str,
    default: Any,
    kind: Kind,
    text: str,
    *,
    shown: str = "",
    aliases: tuple[str, ...] = (),
    contract_aliases: tuple[str, ...] = (),
) -> Any:
    """A field of the settings: variable `OCR_MLX_<name>`; `contract_aliases` are read only under a contract."""
    meta = {
        "name": PREFIX + name,
        "kind": kind,
        "help": text,
        "shown": shown,
        "aliases": aliases,
        "contract_aliases": contract_aliases,
    }
    return field(default=default, metadata=meta, repr=not kind.secret)
