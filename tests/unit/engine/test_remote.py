"""Names of models elsewhere, and who may be asked."""

from __future__ import annotations

import pytest

from ocr_mlx.engine.remote import RemoteOptions, check_allowed, is_reference, parse, reference
from ocr_mlx.engine.remote_reading import RemoteEngines
from ocr_mlx.errors import InvalidOption, SourceForbidden


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        ("http://localhost:8001/v1", "http://localhost:8001/v1"),
        ("http://localhost:8001/v1/", "http://localhost:8001/v1"),
        ("http://localhost:8001/v1/chat/completions", "http://localhost:8001/v1"),
        ("HTTPS://API.openai.com/v1/chat/completions/", "https://api.openai.com:443/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://gpu", "http://gpu:80"),
    ],
)
def test_an_endpoint_and_a_model_make_a_name_that_leads_back(endpoint: str, base: str) -> None:
    name = reference(endpoint, "org/model-1@8bit")
    assert is_reference(name)
    found = parse(name)
    assert (found.base, found.model) == (base, "org/model-1@8bit")
    assert found.completions == f"{base}/chat/completions"


def test_a_query_stays_behind_the_path() -> None:
    found = parse("openai+https://host/openai/v1?api-version=1#m")
    assert found.completions == "https://host:443/openai/v1/chat/completions?api-version=1"


def test_other_names_are_no_references() -> None:
    assert not is_reference("lightonai/LightOnOCR-2-1B")
    assert not is_reference("./openai")


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://host/v1",
        "http://user:secret@host/v1",
        "http://good\\@bad/v1",
        "http://good#@bad/v1",
        "http://ho st/v1",
        "http://höst/v1",
        "http://host:99999/v1",
        "http://host:0/v1",
        "http:///v1",
        "http://host/v1\n",
        "http://host/v1\r\nX: y",
        "",
    ],
)
def test_what_parsers_might_read_in_two_ways_is_refused(endpoint: str) -> None:
    for make in (lambda: parse(f"openai+{endpoint}#m"), lambda: parse(reference(endpoint, "m"))):
        if endpoint in ("http://good#@bad/v1", "http://host/v1\n"):
            continue
        with pytest.raises(InvalidOption) as problem:
            make()
        assert "secret" not in str(problem.value)


def test_a_fragment_never_reaches_the_host() -> None:
    assert parse("openai+http://good#@bad/v1").names == {"good:80", "good"}


@pytest.mark.parametrize(
    "name",
    ["openai+http://host/v1", "openai+http://host/v1#", "openai+http://host/v1# ", "openai+http://host/v1#\ud800"],
)
def test_a_reference_names_a_model(name: str) -> None:
    with pytest.raises(InvalidOption, match="names no model") as problem:
        parse(name)
    assert "ocr_mlx models openai+http" in problem.value.hint


def test_an_engine_has_names_for_its_models_and_a_place_where_it_lists_them() -> None:
    found = parse("openai+https://host/v1?version=1#m")
    assert found.models == "https://host:443/v1/models?version=1"
    assert found.named("other") == "openai+https://host:443/v1?version=1#other"
    assert parse(found.named("other")).completions == found.completions


@pytest.mark.parametrize(
    ("name", "allowed", "fits"),
    [
        ("openai+https://api.openai.com/v1#m", {"api.openai.com"}, True),
        ("openai+https://api.openai.com:443/v1#m", {"api.openai.com"}, True),
        ("openai+https://api.openai.com:444/v1#m", {"api.openai.com"}, False),
        ("openai+http://localhost:1234/v1#m", {"localhost:1234"}, True),
        ("openai+http://localhost:1235/v1#m", {"localhost:1234"}, False),
        ("openai+http://localhost.evil:1234/v1#m", {"localhost:1234"}, False),
        ("openai+http://127.1:1234/v1#m", {"127.0.0.1:1234"}, False),
        ("openai+http://anything:9/v1#m", {"*"}, True),
        ("openai+http://anything:9/v1#m", None, True),
        ("openai+http://anything:9/v1#m", set(), False),
    ],
)
def test_only_engines_of_the_list_are_asked(name: str, allowed: set[str] | None, fits: bool) -> None:
    if fits:
        return check_allowed(parse(name), allowed)
    with pytest.raises(SourceForbidden, match="OCR_MLX_REMOTE_HOSTS"):
        check_allowed(parse(name), allowed)


def test_the_configured_engine_needs_no_entry_and_its_key_goes_nowhere_else() -> None:
    engines = RemoteEngines(
        RemoteOptions(endpoint="http://gpu:8001/v1", key="own", hosts=frozenset({"other:80", "gpu:9"}))
    )
    own = engines.find("openai+http://gpu:8001/v1#m")
    assert engines.key(own, "") == "own"
    assert engines.key(own, "callers") == "callers"
    assert engines.key(engines.find("openai+http://other/v1#m"), "") == ""
    assert engines.key(engines.find("openai+http://gpu:8001/elsewhere#m"), "") == ""
    assert engines.key(engines.find("openai+http://gpu:9/v1#m"), "") == ""
    with pytest.raises(SourceForbidden):
        engines.find("openai+http://gpu:8002/v1#m")
    assert "own" not in repr(engines._options)
