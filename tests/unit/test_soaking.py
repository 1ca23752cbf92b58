"""The judges of the soak: they must see what is wrong."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from scripts.soaking import documents, verdict
from scripts.soaking.documents import Document
from scripts.soaking.judge import Golden, judge_bad
from scripts.soaking.mix import Outcome
from scripts.soaking.program import MODELS
from scripts.soaking.verdict import Evidence, Ledger, trend
from scripts.soaking.watch import Sample, share
from scripts.soaking.ways import Answer, Ask, joined

from ocr_mlx.errors import OcrMlxError
from ocr_mlx.pages.load import PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses

LOOK = Sample(at=0.0, server=10**8, children=10**7, largest=10**7, processes=1, threads=20, descriptors=30)
ASK = Ask(document=Document(name="a.png", data=b""), model=MODELS[0])


def looks(grows: float, count: int = 300) -> list[Sample]:
    """Noise of 20 MB, and `grows` MB over the second half."""
    dice = random.Random(1)
    return [
        replace(LOOK, at=float(i), server=int(1e6 * (100 + dice.gauss(0, 20) + grows * 2 * i / count)))
        for i in range(count)
    ]


def evidence(**changed: object) -> Evidence:
    ledger = Ledger()
    ledger.add([Outcome(kind="file", status="200"), Outcome(kind="burst", status="429")])
    seen = Evidence(
        ledger=ledger,
        samples=looks(0),
        livez=[1.0],
        late=[0.1],
        before=LOOK,
        after=LOOK,
        left={"rows_waiting": 0.0},
        status=0,
        seconds=300.0,
    )
    return replace(seen, **changed)  # type: ignore[arg-type]


def test_a_leak_is_seen_through_the_noise() -> None:
    found = trend([float(i) for i in range(100)], [5.0 + 0.5 * i for i in range(100)])
    assert found is not None and found.growth == pytest.approx(49.5) and found.error == pytest.approx(0, abs=1e-9)
    assert not found.is_flat(40) and found.is_flat(60)
    assert trend([1.0], [1.0]) is None


def test_the_verdict() -> None:
    assert verdict.judge(evidence())[0]
    wrong = Ledger()
    wrong.add([Outcome(kind="file", status="200", problem="wrong text")])
    endless = Ledger()
    endless.add([Outcome(kind="burst", status="200")])
    for changed in (
        {"samples": looks(80)},
        {"ledger": wrong},
        {"ledger": endless},
        {"livez": [1.0, math.nan]},
        {"left": {"documents_in_work": 1.0}},
        {"after": None},
        {"status": 1},
    ):
        fine, told = verdict.judge(evidence(**changed))
        assert not fine and "NOT WELL" in told, changed
    assert wrong.statuses() == Counter({"200": 1})


def test_texts_are_held_against_the_quiet_reading() -> None:
    golden = Golden([])
    golden._keep("plain", ASK, Answer(status=200, text="right\n"))
    assert golden.judge("plain", ASK, Answer(status=200, text="right")) == ""
    assert golden.judge("plain", ASK, Answer(status=429, code="queue_full", waits=True)) == ""
    for answer in (
        Answer(status=200, text="wrong"),
        Answer(status=200, text="right", problem="broken off"),
        Answer(status=200, code="job_failed"),
        Answer(status=500, code="error"),
        Answer(status=503, code="out_of_memory", waits=True),
        Answer(status=429, code="queue_full"),
    ):
        assert golden.judge("plain", ASK, answer), answer


def test_what_is_refused_is_refused_for_its_reason() -> None:
    bad = Document(name="cut.png", data=b"x", bad=("bad_image",))
    assert judge_bad(bad, Answer(status=422, code="bad_image"), (400, 422)) == ""
    assert judge_bad(bad, Answer(status=422, code="bad_pdf"), (400, 422))
    assert judge_bad(bad, Answer(status=500, code="bad_image"), (400, 422))
    assert judge_bad(bad, Answer(status=200, text="words"), (400, 422))


def test_a_stream_must_come_to_its_text() -> None:
    begun = [{"event": "document_started", "pages": [2, 0]}]
    pages = [
        {"event": "text", "page": 0, "delta": "ab"},
        {"event": "text", "page": 2, "delta": "xyz"},
        {"event": "rewind", "page": 2, "length": 1},
        {"event": "page_done", "page": 0, "raw_text": "ab", "text": "AB"},
        {"event": "page_done", "page": 2, "raw_text": "x", "text": "X"},
    ]
    end = [{"event": "document_done"}]
    assert joined(begun + pages + end) == Answer(status=200, text="X\n\nAB")
    assert joined(begun + pages).problem
    assert joined(begun + pages[1:] + end).problem
    assert joined(begun + pages[:-1] + end).problem
    assert joined([{"event": "error", "status": 422, "code": "bad_pdf", "message": "no"}]).code == "bad_pdf"
    assert joined([]).problem


def test_its_documents_are_what_they_are_said_to_be() -> None:
    with PageProcesses() as renderer:

        def opened(document: Document) -> str:
            try:
                with open_document(document.data, limits=PageLimits(), renderer=renderer) as found:
                    assert found.page_count == document.pages or document.bad
                    found.page(found.page_count - 1, dpi=36)
            except OcrMlxError as error:
                return error.code
            return ""

        for document in (*documents.readable(3), *documents.broken(3)):
            code = opened(document)
            assert code in document.bad if document.bad else not code, (document.name, code)
    assert [one.data for one in documents.readable(3)] == [one.data for one in documents.readable(3)]


def test_a_share_leaves_out_what_never_came() -> None:
    assert share([3.0, math.nan, 1.0, 2.0], 0.5) == 2.0
    assert math.isnan(share([math.nan], 0.5))
