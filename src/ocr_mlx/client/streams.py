"""Answers in pieces: what `stream` and `follow` give back, for ordinary code and for asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from ocr_mlx.client.chat import Deltas
from ocr_mlx.client.live import Follow
from ocr_mlx.client.records import Event, Page

T = TypeVar("T")


class Stream(Iterator[T], Generic[T]):
    """Iterate it to the end, or close it: that cancels what is still being read. A `with` block closes it."""

    def __init__(self, items: Generator[T, None, None]) -> None:
        self._items = items

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Cancel what is still being read."""
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextStream(Stream[str]):
    """Text as it comes. Afterwards `outcome` says how the reading ended."""

    def __init__(self, outcome: Deltas, texts: Generator[str, None, None]) -> None:
        super().__init__(texts)
        self.outcome = outcome


class EventStream(Stream[Event]):
    """A document's events as they happen. `document` is what they come to, see `Follow`."""

    def __init__(self, document: Follow, events: Generator[Event, None, None]) -> None:
        super().__init__(events)
        self.document = document

    def pages(self) -> Iterator[Page]:
        """The pages alone, each as it is done."""
        return (event.page for event in self if event.page is not None)


class AsyncStream(AsyncIterator[T], Generic[T]):
    """See `Stream`; an `async with` block closes it."""

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items

    async def __anext__(self) -> T:
        return await anext(self._items)

    async def aclose(self) -> None:
        """Cancel what is still being read."""
        await self._items.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncTextStream(AsyncStream[str]):
    """See `TextStream`."""

    def __init__(self, outcome: Deltas, texts: AsyncGenerator[str, None]) -> None:
        super().__init__(texts)
        self.outcome = outcome


class AsyncEventStream(AsyncStream[Event]):
    """See `EventStream`."""

    def __init__(self, document: Follow, events: AsyncGenerator[Event, None]) -> None:
        super().__init__(events)
        self.document = document

    async def pages(self) -> AsyncIterator[Page]:
        """The pages alone, each as it is done."""
        async for event in self:
            if event.page is not None:
                yield event.page
