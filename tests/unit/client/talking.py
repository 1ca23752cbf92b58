"""Both clients in front of a server that is a function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from ocr_mlx.client import AsyncClient, Client

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://127.0.0.1:1"


def sync(
    handler: Handler, method: str, *args: Any, retries: int = 3, client_model: str | None = None, **options: Any
) -> Any:
    with Client(URL, "secret", model=client_model, retries=retries, transport=httpx.MockTransport(handler)) as client:
        result = getattr(client, method)(*args, **options)
        return list(result) if isinstance(result, Iterator) else result


def in_asyncio(
    handler: Handler, method: str, *args: Any, retries: int = 3, client_model: str | None = None, **options: Any
) -> Any:
    async def run() -> Any:
        transport = httpx.MockTransport(handler)
        async with AsyncClient(URL, "secret", model=client_model, retries=retries, transport=transport) as client:
            result = getattr(client, method)(*args, **options)
            if isinstance(result, AsyncIterator):
                return [item async for item in result]
            return await result if inspect.isawaitable(result) else result

    return asyncio.run(run())


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, and an error at its end where one is given."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.given = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            self.given += 1
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Server:
    """Answers in turn, the last one again and again; keeps the requests."""

    def __init__(self, *answers: httpx.Response | Pieces | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Pieces):
            return httpx.Response(200, stream=answer)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def text(body: str, statuses: str = "ok") -> httpx.Response:
    return httpx.Response(200, text=body, headers={"X-OCR-MLX-Status": statuses, "X-OCR-MLX-Model": "a%2Bb"})


def chat(content: str, finish: str = "stop", pages: tuple[str, ...] = ("ok",)) -> httpx.Response:
    reports = [{"document": 0, "index": index, "status": status} for index, status in enumerate(pages)]
    return httpx.Response(
        200,
        json={
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            "ocr": {"status": "ok", "confidence": 0.5, "pages": reports},
        },
    )


def job(state: str = "completed", done: int = 1, total: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": "j",
        "status": state,
        "filename": "a.png",
        "engine": "builtin",
        "cancelled": False,
        "error": None,
        "progress": {"done": done, "total": total},
        "pages": [{"index": n, "page_number": n + 1, "status": "ok", "error": None} for n in range(done)],
        "result": None,
    } | more
