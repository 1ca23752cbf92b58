"""What is kept of engines that are asked, and that it does not grow with their number."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ocr_mlx.engine.remote_chat import FORMS
from ocr_mlx.engine.remote_known import MOST, SECONDS, Places, Ways

EXTRAS = {"top": 1}
BEST = {**FORMS[0], **EXTRAS}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ways(known: Ways, engine: str = "a", extras: dict[str, Any] = EXTRAS) -> list[dict[str, Any]]:
    return [dict(fields) for fields in known.of(engine, extras)]


def test_everything_is_tried_of_an_engine_that_nobody_knows() -> None:
    assert ways(Ways()) == [BEST, *FORMS]
    assert ways(Ways(), extras={}) == list(FORMS)


def test_what_was_taken_is_tried_first_and_less_after_it() -> None:
    known = Ways()
    known.taken("a", EXTRAS, FORMS[1])
    assert ways(known) == list(FORMS[1:])
    assert ways(known, "b") == [BEST, *FORMS]
    known.taken("a", {}, FORMS[2])
    assert ways(known) == [FORMS[2]]


def test_an_engine_that_takes_everything_is_not_noted() -> None:
    known = Ways()
    known.taken("a", EXTRAS, BEST)
    known.taken("a", {}, FORMS[0])
    assert len(known) == 0


def test_what_is_known_has_an_end_since_another_engine_may_run_there_by_then() -> None:
    clock = Clock()
    known = Ways(clock)
    known.taken("a", EXTRAS, FORMS[2])
    clock.now = SECONDS
    assert ways(known) == [FORMS[2]]
    clock.now = SECONDS + 1
    assert ways(known) == [BEST, *FORMS]
    assert len(known) == 0


def test_however_many_engines_are_named_only_the_latest_are_known() -> None:
    known = Ways()
    for number in range(MOST + 10):
        known.taken(str(number), {}, FORMS[1])
    assert len(known) == MOST
    assert ways(known, str(MOST + 9), {}) == list(FORMS[1:])
    assert ways(known, "0", {}) == list(FORMS)


def test_an_engine_gets_so_many_pages_at_a_time_and_is_forgotten_without_any() -> None:
    async def all_of_them() -> None:
        places, now, most = Places(most=2), 0, 0

        async def page(engine: str) -> None:
            nonlocal now, most
            async with places.one(engine):
                now += 1
                most = max(most, now)
                await asyncio.sleep(0)
                now -= 1

        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(page("a"))
            await asyncio.sleep(0)
            assert len(places) == 1
        assert (most, len(places)) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            async with places.one("b"):
                raise ZeroDivisionError
        assert len(places) == 0

    asyncio.run(all_of_them())


def test_a_page_that_is_given_up_while_it_waits_leaves_nothing() -> None:
    async def given_up() -> None:
        places = Places(most=1)

        async def wait() -> None:
            async with places.one("a"):
                raise AssertionError

        async with places.one("a"):
            waits = asyncio.create_task(wait())
            await asyncio.sleep(0)
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
            assert len(places) == 1
        assert len(places) == 0

    asyncio.run(given_up())
