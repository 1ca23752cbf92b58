"""What the soak's clients do, at random and yet the same for the same seed: read, cancel, leave, ask wrongly, evict, look."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
from scripts.soaking.documents import Document, Shelf
from scripts.soaking.judge import Golden, is_busy, judge_bad
from scripts.soaking.program import MODELS, STEADY
from scripts.soaking.ways import (
    JOBS,
    PLAIN,
    SWITCHED,
    Answer,
    Ask,
    body,
    by_chat,
    by_data,
    by_file,
    by_inference,
    by_job,
    by_layout,
    by_web,
    data_uri,
    failed,
    submit,
)

PATIENCE = 150.0
"""Seconds after which a request without an answer is a finding."""
_BURST = 24
_LOOKS = (
    "/health",
    "/readyz",
    "/metrics",
    "/models",
    "/models/current",
    "/jobs",
    "/v1/models",
    "/api/history",
    "/logs",
)
_REFUSED = (400, 413, 415, 422)


def connected(url: str) -> httpx.Client:
    """A connection that is dropped before the server drops it."""
    limits = httpx.Limits(keepalive_expiry=2.0)
    return httpx.Client(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one thing that a client did came to. `problem` is empty where all was right."""

    kind: str
    status: str
    problem: str = ""


class Client:
    """One of the soak's clients. `step` does one thing; all that it does follows from the seed."""

    def __init__(self, url: str, shelf: Shelf, golden: Golden, bad: Sequence[Document], seed: str) -> None:
        self._url = url
        self._shelf = shelf
        self._golden = golden
        self._bad = bad
        self._dice = random.Random(seed)
        self._http = connected(url)
        self._kinds: dict[Callable[[], list[Outcome]], int] = {
            self._read: 40,
            self._read_switched: 6,
            self._read_late: 6,
            self._read_bad: 12,
            self._ask_wrongly: 6,
            self._leave: 10,
            self._break_off: 4,
            self._cancel_job: 6,
            self._evict: 4,
            self._switch: 2,
            self._look: 8,
            self.burst: 1,
        }

    def step(self) -> list[Outcome]:
        """Do one thing, and say what came of it. Raises httpx.TransportError when the server does not answer."""
        [chosen] = self._dice.choices([*self._kinds], [*self._kinds.values()])
        return chosen()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _ask(self, service: str, **more: Any) -> Ask:
        """Any of what can be asked for; long ones now and then only."""
        asks = self._golden.asks[service]
        short = [ask for ask in asks if ask.document.pages < 30 or ask.pages]
        found = self._dice.choice(short if self._dice.random() < 0.98 else asks)
        if self._dice.random() < 0.3:
            more["keep_alive"] = self._dice.choice((0, 0.2, 3))
        return Ask(document=found.document, model=found.model, pages=found.pages, tokens=found.tokens, more=more)

    def _judged(self, kind: str, service: str, ask: Ask, answer: Answer) -> Outcome:
        problem = self._golden.judge(service, ask, answer)
        told = f"{ask.model.name} {ask.document.name} {ask.pages}: {problem}" if problem else ""
        return Outcome(kind=kind, status=str(answer.status), problem=told)

    def _read(self) -> list[Outcome]:
        name = self._dice.choice([*PLAIN, *JOBS])
        ask = self._ask("plain")
        if name in JOBS and ask.model.dices:
            ask = replace(ask, model=MODELS[0])
        way = (PLAIN | JOBS)[name]
        return [self._judged(name, "plain", ask, way(self._http, self._shelf, ask))]

    def _read_switched(self) -> list[Outcome]:
        name = self._dice.choice([*SWITCHED])
        ask = self._ask(name)
        return [self._judged(name, name, ask, SWITCHED[name](self._http, self._shelf, ask))]

    def _read_late(self) -> list[Outcome]:
        """With less time than it takes, often: the whole text, or a part of it that says so, or 504."""
        ask = self._ask("plain", timeout=self._dice.choice((0.001, 0.02, 0.1, 0.3)))
        answer = by_file(self._http, self._shelf, ask)
        late = (answer.status, answer.code) == (504, "timed_out") or "cancelled" in answer.statuses
        if late:
            return [Outcome(kind="timeout", status=str(answer.status))]
        return [self._judged("timeout", "plain", ask, answer)]

    def burst(self) -> list[Outcome]:
        """More at once than the queue takes: each is read rightly or told to come back."""
        asks = [self._ask("plain") for _ in range(_BURST)]

        def one(ask: Ask) -> Outcome:
            with connected(self._url) as http:
                return self._judged("burst", "plain", ask, by_data(http, self._shelf, ask))

        with ThreadPoolExecutor(_BURST) as pool:
            return list(pool.map(one, asks))

    # --- what cannot be read -----------------------------------------------------------------------------------------

    def _read_bad(self) -> list[Outcome]:
        document = self._dice.choice(self._bad)
        ask = Ask(document=document, model=self._dice.choice(MODELS))
        way = self._dice.choice((by_file, by_data, by_web, by_chat, by_inference, by_layout, by_job))
        answer = way(self._http, self._shelf, ask)
        if not document.data and answer.status == 400:  # each service has words of its own for an empty file
            return [Outcome(kind="bad document", status="400")]
        problem = judge_bad(document, answer, _REFUSED)
        told = f"{way.__name__} {document.name}: {problem}" if problem else ""
        return [Outcome(kind="bad document", status=str(answer.status), problem=told)]

    def _ask_wrongly(self) -> list[Outcome]:
        name, wanted, asked = self._dice.choice(self._wrong_questions())
        answer = asked()
        busy = is_busy(failed(answer))
        problem = "" if answer.status_code == wanted or busy else f"{name}: {wanted} wanted, {answer.status_code}"
        return [Outcome(kind="wrong question", status=str(answer.status_code), problem=problem)]

    def _wrong_questions(self) -> list[tuple[str, int, Callable[[], httpx.Response]]]:
        http, ask = self._http, self._golden.asks["plain"][0]
        fine = body(data_uri(ask.document.data), ask)
        json_type = {"Content-Type": "application/json"}

        def ocr(**changed: Any) -> Callable[[], httpx.Response]:
            return lambda: http.post("/ocr", json=fine | changed)

        return [
            ("no JSON", 422, lambda: http.post("/ocr", content=b"{not json", headers=json_type)),
            ("a list", 422, lambda: http.post("/ocr", json=[1, 2, 3])),
            ("no type", 415, lambda: http.post("/ocr", content=b"hello")),
            ("no address", 400, ocr(filename="")),
            ("another scheme", 400, ocr(filename="ftp://example.org/x.png")),
            ("no such file", 404, ocr(filename="file:///no/such/file.png")),
            ("a device", 403, ocr(filename="file:///dev/zero")),
            ("no such page", 422, ocr(pages="400")),
            ("no range", 422, ocr(pages="one")),
            ("temperature", 422, ocr(temperature=7)),
            ("unknown word", 404, ocr(model="no-such-model")),
            ("unknown mode", 422, ocr(mode="no-such-mode")),
            ("not on the web server", 502, ocr(filename=self._shelf.web("missing.png"))),
            ("round and round", 502, ocr(filename=self._shelf.web("round"))),
            ("no messages", 400, lambda: http.post("/v1/chat/completions", json={"model": "builtin", "messages": []})),
            ("no file", 422, lambda: http.post("/api/inference", files={"other": b"x"})),
            ("unknown engine", 400, lambda: self._job(engine="no-such-model")),
            ("dpi", 400, lambda: self._job(dpi="7")),
            ("no such job", 404, lambda: http.get("/ocr/00000000-0000-0000-0000-000000000000")),
            ("no such route", 404, lambda: http.get("/v2/everything")),
            ("another Host", 403, lambda: http.get("/health", headers={"Host": "evil.example"})),
            ("another Origin", 403, lambda: http.post("/ocr", json=fine, headers={"Origin": "https://evil.example"})),
        ]

    def _job(self, **fields: str) -> httpx.Response:
        document = self._golden.asks["plain"][0].document
        return self._http.post("/ocr", files={"file": (document.name, document.data)}, data=fields)

    # --- leaving -----------------------------------------------------------------------------------------------------

    def _leave(self) -> list[Outcome]:
        """Go in the middle of a stream, after some of its lines."""
        ask = self._ask("plain")
        asked = body(self._shelf.file(ask.document.name), ask)
        kind = self._dice.choice(("text/event-stream", "application/x-ndjson"))
        after = self._dice.randrange(6)
        with self._http.stream("POST", "/ocr", json=asked, headers={"Accept": kind}) as answer:
            if answer.status_code != 200:
                answer.read()
                return [self._judged("left a stream", "plain", ask, failed(answer))]
            for number, _line in enumerate(answer.iter_lines()):
                if number >= after:
                    break
        return [Outcome(kind="left a stream", status="200")]

    def _break_off(self) -> list[Outcome]:
        """Close the connection without a word: in the middle of the question, or while it is being answered."""
        ask, parts = self._ask("plain"), urlsplit(self._url)
        data = json.dumps(body(data_uri(ask.document.data), ask)).encode()
        head = f"POST /ocr HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        whole = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
        told = len(whole) if self._dice.random() < 0.6 else self._dice.randrange(len(whole))
        with socket.create_connection((str(parts.hostname), int(parts.port or 80)), timeout=PATIENCE) as connection:
            if self._dice.random() < 0.5:  # no farewell, only a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(whole[:told])
            time.sleep(self._dice.uniform(0.0, 0.4))
        return [Outcome(kind="broke off", status="none")]

    def _cancel_job(self) -> list[Outcome]:
        """Cancel a job on its way, or forget it."""
        answer = submit(self._http, self._ask("plain"))
        if answer.status_code != 202:
            return [Outcome(kind="ended a job", status=str(answer.status_code), problem=answer.text[:200])]
        where = f"/ocr/{answer.json()['job_id']}"
        time.sleep(self._dice.uniform(0.0, 0.4))
        if self._dice.random() < 0.5:
            gone, after = self._http.delete(where), self._http.get(where)
            fine = (gone.status_code, after.status_code) == (204, 404)
            told = f"{gone.status_code}, then {after.status_code}"
        else:
            ended = self._http.post(f"{where}/cancel")
            fine = ended.status_code == 200 and ended.json()["status"] in ("failed", "completed")
            told = ended.text[:200]
        return [Outcome(kind="ended a job", status="202", problem="" if fine else told)]

    # --- the rest ----------------------------------------------------------------------------------------------------

    def _evict(self) -> list[Outcome]:
        where = self._dice.choice(("/models/evict", *(f"/models/{model.name}/evict" for model in MODELS)))
        answer = self._http.post(where)
        fine = answer.status_code in (200, 202)
        return [Outcome(kind="evict", status=str(answer.status_code), problem="" if fine else answer.text[:200])]

    def _switch(self) -> list[Outcome]:
        name = self._dice.choice([*(model.name for model in STEADY), "no-such-model"])
        answer = self._http.post("/models/switch", json={"model": name})
        fine = answer.status_code == (400 if name == "no-such-model" else 200)
        return [Outcome(kind="switch", status=str(answer.status_code), problem="" if fine else answer.text[:200])]

    def _look(self) -> list[Outcome]:
        where = self._dice.choice(_LOOKS)
        answer = self._http.get(where, headers={"Accept": "application/json"} if where == "/health" else {})
        problem = "" if answer.status_code == 200 else f"{where}: {answer.text[:200]}"
        return [Outcome(kind="look", status=str(answer.status_code), problem=problem)]
