"""What a run uses, and gives back once nobody works with it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress

from ocr_mlx.errors import ShuttingDown


class Held:
    """A document and a model's lease. `hands` are what other threads still do with them."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.hands: set[Future[None]] = set()

    def give_back(self, then: Callable[[], None]) -> None:
        """Close everything, at once where nobody is in it, else on a thread when the last has let go; `then` follows."""
        left = {hand for hand in self.hands if not hand.done()}
        if left:
            threading.Thread(target=_close, args=(left, self.stack, then), name="ocr-give-back", daemon=True).start()
        else:
            _close(left, self.stack, then)


def _close(left: set[Future[None]], stack: ExitStack, then: Callable[[], None]) -> None:
    try:
        wait(left)
        with suppress(ShuttingDown):  # nothing is unloaded once the engine has ended
            stack.close()
    finally:
        then()
