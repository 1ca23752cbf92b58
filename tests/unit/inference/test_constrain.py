"""Answers held to a JSON schema: a real graph with random weights, which left alone says noise, and the scripted family."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import fields, replace
from typing import Any

import jsonschema_rs
import mlx.core as mx
import numpy as np
import pytest

from ocr_mlx.domain import (
    ANY_JSON_OBJECT,
    UNSET,
    DecodeOverrides,
    DecodeParams,
    DocumentStarted,
    Finish,
    PageResult,
    PageStatus,
    Prompt,
    TextDelta,
    resolve,
)
from ocr_mlx.errors import EngineError, InvalidOption, SourceNotFound
from ocr_mlx.inference.batch import DecodeBatch
from ocr_mlx.inference.constrain import MOST_CHARACTERS, check_model, check_schema, constraint_for
from ocr_mlx.inference.options import check
from ocr_mlx.inference.pipeline import PageRun, prepare
from ocr_mlx.inference.sampling import NOTHING, Sampler, mask
from ocr_mlx.jobs.records import JOB, JobRequest, new_job
from ocr_mlx.model.base import LoadedModel
from ocr_mlx.model.load import load_model
from ocr_mlx.model.registry import aliases, families
from tests.families import qwen2_vl_checkpoint as checkpoint
from tests.unit.engine.test_service import bench
from tests.unit.fakes import EOS, VOCABULARY, FakeDocument, fake_model, ids, request
from tests.unit.inference.test_batch import Said, drain

PRESCRIPTION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "doctor_name": {"type": ["string", "null"], "maxLength": 12},
        "date": {"type": "string", "format": "date"},
        "lines": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
                    "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
                    "unit": {"enum": ["<b>mg</b>", "<b>ml</b>"]},
                },
                "required": ["code", "quantity", "unit"],
                "additionalProperties": False,
            },
        },
        "urgent": {"type": "boolean"},
    },
    "required": ["doctor_name", "date", "lines", "urgent"],
    "additionalProperties": False,
}
PYDANTIC: dict[str, Any] = {
    "$defs": {
        "Money": {
            "title": "Money",
            "type": "object",
            "properties": {"cents": {"type": "integer", "minimum": 0, "maximum": 99999}, "currency": {"const": "EUR"}},
            "required": ["cents", "currency"],
            "additionalProperties": False,
        }
    },
    "title": "Receipt",
    "description": "As pydantic writes them.",
    "type": "object",
    "properties": {
        "total": {"$ref": "#/$defs/Money"},
        "tip": {"anyOf": [{"$ref": "#/$defs/Money"}, {"type": "null"}], "default": None},
        "rate": {"type": "number", "minimum": 0, "maximum": 1, "title": "Rate", "examples": [0.17]},
    },
    "required": ["total", "tip"],
    "additionalProperties": False,
}
SCHEMAS = {
    "prescription": PRESCRIPTION,
    "pydantic": PYDANTIC,
    "choice": {"enum": ["invoice", "letter", None, 3]},
    "list": {
        "type": "array",
        "items": {"type": "string", "minLength": 2, "maxLength": 5},
        "minItems": 2,
        "maxItems": 2,
    },
}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 7},
    "top-p": {"temperature": 1.5, "seed": 8, "top_p": 0.9},
    "top-k": {"temperature": 1.0, "seed": 9, "top_k": 3},
    "penalty": {"repetition_penalty": 1.3},
    "ngram": {"no_repeat_ngram": 3},
}
FIVE = '{"type":"object","properties":{"n":{"const":5}},"required":["n"],"additionalProperties":false}'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny Qwen2-VL whose graph has more ids than its tokenizer."""
    return load_model(checkpoint.write("long_decode", tmp_path_factory.mktemp("model") / "m"), dtype="float32")


class Reading:
    """One page on its way through a batch."""

    def __init__(self, model: LoadedModel, params: DecodeParams, size: tuple[int, int] = (97, 40)) -> None:
        mode, page = model.family.modes["text"], checkpoint.page(size)
        prepared = prepare(model, page, Prompt(text="Read."), mode)
        self.deltas: list[TextDelta] = []
        self.run = PageRun(model, page, prepared, mode, on_text=self.deltas.append, on_done=lambda: None)
        self.rows = self.run.rows(params, threading.Event())


def read(model: LoadedModel, params: DecodeParams) -> PageResult:
    one = Reading(model, params)
    batch = DecodeBatch(model)
    batch.join(one.rows)
    drain(batch)
    result = one.run.result()
    assert "".join(delta.text for delta in one.deltas) == result.raw_text
    return result


def held(schema: Any, **options: Any) -> DecodeParams:
    return DecodeParams(json_schema=json.dumps(schema), **{"max_new_tokens": 500, **options})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_noise_becomes_json_that_fits_the_schema(model: LoadedModel, name: str, way: str) -> None:
    result = read(model, held(SCHEMAS[name], **WAYS[way]))
    assert (result.status, result.finish) == (PageStatus.OK, Finish.EOS), result.raw_text
    jsonschema_rs.validator_for(SCHEMAS[name], validate_formats=True).validate(json.loads(result.text))
    assert max(result.token_ids) < model.processor.tokenizer.get_vocab_size()


def test_left_alone_it_is_noise(model: LoadedModel) -> None:
    with pytest.raises(ValueError):
        json.loads(read(model, DecodeParams(max_new_tokens=60)).text)


def test_any_object_is_json_or_says_that_it_was_cut_off(model: LoadedModel) -> None:
    ends = set()
    for seed in range(1, 7):
        result = read(model, DecodeParams(json_schema=ANY_JSON_OBJECT, max_new_tokens=40, temperature=1.0, seed=seed))
        ends.add(result.status)
        if result.status is PageStatus.OK:
            assert isinstance(json.loads(result.text), dict)
        else:
            assert (result.status, result.finish) == (PageStatus.TRUNCATED, Finish.LENGTH)
            assert result.generated_tokens == 40
    assert ends == {PageStatus.OK, PageStatus.TRUNCATED}


def test_alone_and_in_a_crowd_every_row_says_the_same(model: LoadedModel) -> None:
    params = [
        held(PRESCRIPTION),
        DecodeParams(max_new_tokens=80),
        held(PRESCRIPTION, temperature=1.0, seed=3),
        DecodeParams(max_new_tokens=50, temperature=0.8, seed=4),
        held(PYDANTIC, repetition_penalty=1.2),
        held(SCHEMAS["list"], temperature=2.0, seed=5),
        DecodeParams(max_new_tokens=90, no_repeat_ngram=3),
    ]
    alone = [read(model, one) for one in params]
    crowd, batch = [Reading(model, one) for one in params], DecodeBatch(model)
    batch.join([row for one in crowd[:4] for row in one.rows])
    for _ in range(9):
        batch.step()
    batch.join([row for one in crowd[4:] for row in one.rows])
    drain(batch)
    together = [one.run.result() for one in crowd]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in alone}) == len(alone)


def said(script: str, schema: str, *, model: LoadedModel | None = None, **options: Any) -> Said:
    """A row whose graph wants to say the script."""
    chosen = model or fake_model([])
    one, batch = Said(chosen, script, DecodeParams(json_schema=schema, **options)), DecodeBatch(chosen)
    batch.join([one.row])
    drain(batch)
    assert one.outcome is not None
    return one


@pytest.mark.parametrize("text", ['{"n":5}', '{"n": 5}', '{\n  "n": 5\n}'])
def test_what_fits_is_said_as_the_model_wants_it(text: str) -> None:
    assert said(text, FIVE).end() == (text, Finish.EOS)


@pytest.mark.parametrize("script", ["", "{", '{"n"', "```json\n", '{"n":5,'])
def test_the_end_is_kept_until_the_answer_is_complete(script: str) -> None:
    text, finish = said(script, FIVE).end()
    assert (json.loads(text), finish) == ({"n": 5}, Finish.EOS)


def test_the_model_may_end_where_more_could_follow() -> None:
    assert said("12", '{"type":"integer"}').end() == ("12", Finish.EOS)
    assert said("1234", '{"type":"integer"}', max_new_tokens=3).end() == ("123", Finish.LENGTH)


def test_a_complete_answer_is_no_cut_one_and_needs_no_further_step() -> None:
    model = fake_model([])
    one = said('{"n":5}', FIVE, model=model, max_new_tokens=len('{"n":5}'))
    assert one.end() == ('{"n":5}', Finish.EOS)
    assert len(model.graph.widths) == len('{"n":5}') - 1  # type: ignore[attr-defined]


def test_blanks_have_an_end() -> None:
    text, finish = said("{" + "\n" * 400, FIVE).end()
    assert (json.loads(text), finish) == ({"n": 5}, Finish.EOS)
    assert len(text) < 200


def test_stop_strings_and_loops_end_it_as_ever() -> None:
    assert said('["one STOP"]', '{"type":"array"}', stop=("STOP",)).end() == ('["one ', Finish.STOP)
    text, finish = said("[" + '"la",' * 300, '{"type":"array"}').end()
    assert finish is Finish.EOS and text.startswith('["la",') and json.loads(text)[0] == "la"


def test_a_schema_that_leaves_no_token_is_an_error_of_its_row_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = fake_model([])
    model.processor.suppress_token_ids = tuple(ids("5"))
    batch = DecodeBatch(model)
    stuck, free = Said(model, '{"n":5}', DecodeParams(json_schema=FIVE)), Said(model, "free text here")
    other = Said(model, '{"n":5}', DecodeParams(json_schema=FIVE, temperature=1.0, seed=1))
    first = Said(model, "5", DecodeParams(json_schema='{"const":5}'))
    batch.join([stuck.row, free.row, other.row, first.row])
    drain(batch)
    assert free.end() == ("free text here", Finish.EOS)
    for one in (stuck, other, first):
        assert one.outcome is not None and one.outcome.finish is Finish.ERROR
        assert one.outcome.error is not None and "JSON schema" in str(one.outcome.error)
    assert stuck.end()[0].startswith('{"n":')
    assert not caplog.records


def test_the_library_never_writes_what_an_answer_says(capfd: pytest.CaptureFixture[str]) -> None:
    constraint = constraint_for(fake_model([]), DecodeParams(json_schema=FIVE))
    assert constraint is not None
    assert constraint.take(ids("{")[0]) and not constraint.take(ids("S")[0]) and not constraint.take(ids('"')[0])
    assert not constraint.complete
    constraint.allowed(VOCABULARY)
    assert "".join(capfd.readouterr()) == ""


def test_only_ids_of_the_tokenizer_are_allowed_and_the_end_only_when_complete() -> None:
    constraint = constraint_for(fake_model([]), DecodeParams(json_schema=FIVE))
    assert constraint is not None
    allowed = constraint.allowed(VOCABULARY + 50)
    assert allowed.shape == (VOCABULARY + 50,) and allowed.dtype == np.bool_
    assert np.flatnonzero(allowed).tolist() == ids("{")
    for token in ids('{"n":5}'):
        assert not constraint.complete and not constraint.allowed(VOCABULARY)[EOS]
        assert constraint.take(token)
    assert constraint.complete
    assert np.flatnonzero(constraint.allowed(VOCABULARY)).tolist() == [EOS]


def test_every_end_token_of_the_model_may_end_an_answer() -> None:
    model = fake_model([])
    model.processor.eos_token_ids = frozenset({EOS, 1, VOCABULARY + 5})
    constraint = constraint_for(model, DecodeParams(json_schema='{"enum":[1,12]}'))
    assert constraint is not None and constraint.take(ids("1")[0])
    assert np.flatnonzero(constraint.allowed(VOCABULARY)).tolist() == [EOS, 1, *ids("2")]
    assert constraint.take(1)


def test_a_token_that_is_never_chosen_is_not_chosen_for_want_of_another() -> None:
    constraint = constraint_for(fake_model([]), DecodeParams(json_schema='{"const":5}'))
    logits = mx.where(mask(ids("5"), VOCABULARY), -mx.inf, mx.zeros(VOCABULARY))
    for temperature in (0.0, 1.0):
        sampler = Sampler(DecodeParams(temperature=temperature, seed=1), constraint)
        assert sampler.needs_history and not sampler.plain
        assert sampler.choose(logits, []).item() == NOTHING


def test_the_tokenizer_is_read_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import llguidance

    made: list[int] = []
    real = llguidance.LLTokenizer
    monkeypatch.setattr(llguidance, "LLTokenizer", lambda *args, **kw: made.append(1) or real(*args, **kw))
    model = fake_model([])
    for schema in (FIVE, ANY_JSON_OBJECT, FIVE):
        constraint_for(model, DecodeParams(json_schema=schema))
    assert constraint_for(model, DecodeParams()) is None
    assert len(made) == 1


def test_only_general_families_are_held_to_a_schema(model: LoadedModel) -> None:
    assert [family.name for family in families() if family.general] == ["qwen2_vl"]
    check_model(model, DecodeParams(json_schema=ANY_JSON_OBJECT))
    check_model(fake_model([]), DecodeParams())
    with pytest.raises(InvalidOption, match=r"only reads pages.*qwen2-vl"):
        check_model(fake_model([]), DecodeParams(json_schema=ANY_JSON_OBJECT))


def test_the_whole_request_is_refused_before_anything_is_read() -> None:
    events: list[object] = []
    with bench() as b:
        b.document = FakeDocument([0, 1])
        with pytest.raises(InvalidOption, match="only reads pages"):
            b.service.run(request(overrides=DecodeOverrides(json_schema=ANY_JSON_OBJECT)), events.append)
        assert b.document.opened == [] and b.graph.prefills == [] and b.document.closed
        with pytest.raises(InvalidOption, match="Invalid type: text"):
            b.service.run(request(overrides=DecodeOverrides(json_schema='{"type":"text"}')), events.append)
        assert b.loads == 1
    assert not any(isinstance(event, DocumentStarted) for event in events)


def test_a_name_that_tells_the_family_is_refused_before_anything_is_opened_or_loaded() -> None:
    with bench() as b:
        b.document = SourceNotFound("No such file.")
        for name in ("builtin", "deepseek-ai/DeepSeek-OCR"):
            with pytest.raises(InvalidOption, match="only reads pages"):
                b.service.run(request(model=name, overrides=DecodeOverrides(json_schema=ANY_JSON_OBJECT)))
        with pytest.raises(SourceNotFound):
            folder = str(aliases()["builtin"])
            b.service.run(request(model=folder, overrides=DecodeOverrides(json_schema=ANY_JSON_OBJECT)))
        for overrides in (DecodeOverrides(json_schema=None), DecodeOverrides()):
            with pytest.raises(SourceNotFound):
                b.service.run(request(model="builtin", overrides=overrides))
        with pytest.raises(SourceNotFound):
            b.service.run(request(model="qwen2-vl", overrides=DecodeOverrides(json_schema=ANY_JSON_OBJECT)))
        assert b.loads == 0


def test_a_service_with_a_general_family_reads_every_page_into_json() -> None:
    with bench() as b:
        b.model = replace(b.model, family=replace(b.model.family, general=True))
        b.document = FakeDocument([0, None, 1])
        pages = b.service.run(request(overrides=DecodeOverrides(json_schema=FIVE))).pages
    assert [page.status for page in pages] == ["ok", "blank", "ok"]
    assert [json.loads(page.text) for page in (pages[0], pages[2])] == [{"n": 5}, {"n": 5}]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("nonsense", "no JSON object"),
        ("", "no JSON object"),
        ("[1]", "no JSON object"),
        ("true", "no JSON object"),
        ("\ud800", "no JSON object"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "recursion"),
        ('{"type":"text"}', "Invalid type: text"),
        ('{"not":{"type":"string"}}', "not"),
        ('{"type":"string","pattern":"(?=a)b"}', "look-around"),
        ('{"$ref":"#/nowhere"}', "nowhere"),
        (
            '{"oneOf":[{"type":"string"},{"type":"string","maxLength":3}]}',
            r"oneOf constraints are not supported\. Corr",
        ),
        ('{"$ref":"http://example.org/schema"}', "example.org"),
        ('{"type":"integer","minimum":5,"maximum":1}', "minimum"),
        (" " * (MOST_CHARACTERS + 1), "At most 256000"),
        (7, "text of a JSON schema"),
        ({"type": "object"}, "text of a JSON schema"),
    ],
)
def test_a_bad_schema_is_told_with_its_reason(schema: object, reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason) as caught:
        check(DecodeOverrides(json_schema=schema))  # type: ignore[arg-type]
    text = str(caught.value)
    assert "schema" in text and "\n" not in text and len(text) < 400 and "object at 0x" not in text


@pytest.mark.parametrize("schema", ['{"$ref":"#"}', '{"$defs":{"a":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}'])
def test_a_schema_that_only_points_at_itself_is_refused_too(model: LoadedModel, schema: str) -> None:
    with pytest.raises(InvalidOption, match="cannot be used"):
        check_model(model, DecodeParams(json_schema=schema))


def test_a_schema_cannot_change_what_json_is() -> None:
    schema = json.loads(FIVE) | {"x-guidance": {"lenient": True, "key_separator": "=", "whitespace_pattern": "x"}}
    text, finish = said('{"n"=5}', json.dumps(schema)).end()
    assert (json.loads(text), finish) == ({"n": 5}, Finish.EOS)
    with pytest.raises(InvalidOption, match="not"):
        check_schema(json.dumps(schema | {"not": {}}))


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(EngineError, match="pip install llguidance"):
        check(DecodeOverrides(json_schema=ANY_JSON_OBJECT))
    check(DecodeOverrides(seed=1, json_schema=None))


def test_the_library_is_imported_only_where_a_schema_is_asked_for() -> None:
    code = (
        "import sys; from ocr_mlx.inference import options, pipeline; from ocr_mlx.domain import DecodeOverrides;"
        "options.check(DecodeOverrides(seed=1), 'builtin'); sys.exit('llguidance' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("schema", [UNSET, None, ANY_JSON_OBJECT])
def test_a_stored_job_keeps_it(schema: Any) -> None:
    asked = JobRequest(model="qwen2-vl", overrides=DecodeOverrides(json_schema=schema))
    job = new_job(kind="image", filename="a.png", engine="qwen2-vl", request=asked, pages=(0,))
    assert JOB.validate_json(JOB.dump_json(job)) == job


def test_a_request_may_ask_for_free_text_again() -> None:
    assert [field.name for field in fields(DecodeOverrides)] == [field.name for field in fields(DecodeParams)]
    mode = DecodeOverrides(json_schema=FIVE)
    assert resolve(DecodeParams(), mode).json_schema == FIVE
    assert resolve(DecodeParams(), mode, DecodeOverrides(json_schema=None)).json_schema is None
