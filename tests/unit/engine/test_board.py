from __future__ import annotations

import pytest

from ocr_mlx.domain import Event, ModelProgress
from ocr_mlx.engine.board import ModelBoard, ModelState
from ocr_mlx.errors import Cancelled, DownloadFailed


def test_an_attempt_is_followed_and_forgotten_when_it_ends_well() -> None:
    board, told = ModelBoard(str.lower), list[Event]()
    with board.watching("Got", told.append) as tell:
        assert board.get("got") is None
        tell(ModelProgress(model="got", stage="downloading", licence="MIT"))
        assert board.get("got") is None
        tell(ModelProgress(model="got", stage="downloading", done=1, total=4))
        assert board.get("GOT") == ModelState(stage="downloading", done=1, total=4)
        tell(ModelProgress(model="got", stage="loading"))
        assert board.get("got") == ModelState(stage="loading")
        assert board.get("qari") is None
    assert board.get("got") is None and len(told) == 3


def test_how_it_failed_stays_until_the_next_attempt() -> None:
    board = ModelBoard()
    with pytest.raises(DownloadFailed), board.watching("got", lambda _event: None):
        raise DownloadFailed("No network.", hint="Connect.")
    assert board.get("got") == ModelState(stage="failed", message="No network. Connect.")
    with board.watching("got", lambda _event: None) as tell:
        tell(ModelProgress(model="got", stage="loading"))
        assert board.get("got") == ModelState(stage="loading")
    assert board.get("got") is None


def test_what_nobody_expected_is_told_without_its_words() -> None:
    board = ModelBoard()
    with pytest.raises(ValueError, match="secret"), board.watching("got", lambda _event: None):
        raise ValueError("secret")
    state = board.get("got")
    assert state is not None and state.stage == "failed" and "secret" not in state.message


@pytest.mark.parametrize("end", [Cancelled("Enough."), KeyboardInterrupt()])
def test_who_gives_up_says_nothing_of_the_model(end: BaseException) -> None:
    board = ModelBoard()
    with pytest.raises(type(end)), board.watching("got", lambda _event: None) as tell:
        tell(ModelProgress(model="got", stage="loading"))
        raise end
    assert board.get("got") is None


def test_only_so_many_failures_are_kept() -> None:
    board = ModelBoard()
    for number in range(150):
        with pytest.raises(DownloadFailed), board.watching(f"m{number}", lambda _event: None):
            raise DownloadFailed("No.")
    assert board.get("m0") is None and board.get("m49") is None
    assert board.get("m50") is not None and board.get("m149") is not None
