"""Names of models that another machine reads with: `openai+http://host:port/v1#model`. No network and no arrays here."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from ocr_mlx.errors import InvalidOption, SourceForbidden

PREFIX = "openai+"
_COMPLETIONS = "/chat/completions"
_PORTS = {"http": 80, "https": 443}
_ENDPOINT = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:/%-]*)?(?P<query>\?[A-Za-z0-9._~!$&'()*+,;=:/%?-]*)?",
    re.IGNORECASE,
)
"""What every parser of addresses understands alike: no user, no backslash, no bytes beyond ASCII."""
_HINT = "It looks like http://host:8000/v1, without a user or a password."


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteOptions:
    """How engines elsewhere are used: `at_once` pages at a time each, `timeout` seconds for a page.

    `key` is for `endpoint` alone. `hosts` are the engines that may be named besides it, None for every one.
    """

    endpoint: str = ""
    key: str = field(default="", repr=False)
    at_once: int = 8
    timeout: float = 300.0
    hosts: frozenset[str] | None = frozenset()

    def find(self, name: str) -> RemoteModel:
        """The model of this name. Raises InvalidOption, and SourceForbidden for an engine that is not allowed."""
        remote = parse(name)
        if remote.names.isdisjoint(self._own):
            check_allowed(remote, self.hosts)
        return remote

    def key_for(self, remote: RemoteModel) -> str:
        """The configured key, for exactly the configured endpoint; empty for any other."""
        own = _parse(self.endpoint)[:2] if self.endpoint else None
        return self.key if own == (remote.base, remote.query) else ""

    def trusts(self, host: str, port: int) -> bool:
        """Whether the operator, or the user himself, named this engine, so that it may be on a private network too."""
        if self.hosts is None:
            return True
        plain = f"[{host}]" if ":" in host and not host.startswith("[") else host
        names = {f"{plain}:{port}"} | ({plain} if port in _PORTS.values() else set())
        return not names.isdisjoint(self.hosts | self._own)

    @property
    def _own(self) -> frozenset[str]:
        """The names of the configured engine."""
        return _parse(self.endpoint)[2] if self.endpoint else frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteModel:
    """A model at an engine elsewhere. `base` is the address up to `/v1` with its port; `query` begins with `?` or is empty.

    `names` are the ways in which an allow-list may name the engine: `host:port`, and `host` at the scheme's own port.
    """

    base: str
    query: str
    names: frozenset[str]
    model: str

    @property
    def origin(self) -> str:
        """The engine's address without a path."""
        scheme, _, rest = self.base.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}"

    @property
    def completions(self) -> str:
        """Where chat completions are asked for."""
        return f"{self.base}{_COMPLETIONS}{self.query}"

    @property
    def models(self) -> str:
        """Where the engine lists its models."""
        return f"{self.base}/models{self.query}"

    def named(self, model: str) -> str:
        """The name here of a model that this engine has."""
        return f"{PREFIX}{self.base}{self.query}#{model}"


def is_reference(name: str) -> bool:
    """Whether a model's name says that it is read elsewhere."""
    return name[: len(PREFIX)].lower() == PREFIX


def reference(endpoint: str, model: str) -> str:
    """The name of `model` at `endpoint`: an address that ends in `/v1`, or in `/v1/chat/completions`.

    Raises InvalidOption for an address that is none.
    """
    base, query, _names = _parse(endpoint)
    return f"{PREFIX}{base}{query}#{model}"


def parse(name: str) -> RemoteModel:
    """What `reference` put together, or a user wrote. Raises InvalidOption."""
    endpoint, _, model = name[len(PREFIX) :].partition("#")
    base, query, names = _parse(endpoint)
    if not model.strip() or not model.isprintable():
        raise InvalidOption(
            "The remote engine's address names no model.",
            hint=f"Write {PREFIX}http://host:8000/v1#model-name; `ocr_mlx models {PREFIX}http://host:8000/v1` lists them.",
        )
    return RemoteModel(base=base, query=query, names=names, model=model.strip())


def engine_names(name: str) -> frozenset[str]:
    """The names of the engine that a model's name speaks of; none for other models, and where the name is malformed."""
    try:
        return parse(name).names if is_reference(name) else frozenset()
    except InvalidOption:
        return frozenset()


def check_allowed(remote: RemoteModel, allowed: Collection[str] | None) -> None:
    """Raise SourceForbidden for an engine that is not in `allowed` (`host`, `host:port` or `*`); None allows every one."""
    if allowed is None or "*" in allowed or not remote.names.isdisjoint(allowed):
        return
    raise SourceForbidden(
        "This remote engine may not be used from here.",
        hint="OCR_MLX_REMOTE_HOSTS lists the engines that requests may name, as host or host:port.",
    )


def _parse(endpoint: str) -> tuple[str, str, frozenset[str]]:
    """The address in one spelling, its query, and its names for an allow-list."""
    found = _ENDPOINT.fullmatch(endpoint.strip().partition("#")[0])
    if found is None:
        raise InvalidOption("The address of the remote engine is malformed.", hint=_HINT)
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise InvalidOption("The port of the remote engine does not exist.", hint=_HINT)
    path = (found["path"] or "").rstrip("/").removesuffix(_COMPLETIONS).rstrip("/")
    names = {f"{host}:{port}"} | ({host} if port == _PORTS[scheme] else set())
    return f"{scheme}://{host}:{port}{path}", found["query"] or "", frozenset(names)
