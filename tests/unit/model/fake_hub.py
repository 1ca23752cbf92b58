"""A hub on a local port: the few endpoints that downloading uses, with faults to order."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


@dataclass(kw_only=True)
class FakeHub:
    """`files` of the repository `someone/tiny`, and those of others; faults are counted down; `requests` is what was asked."""

    files: dict[str, bytes]
    others: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lfs: frozenset[str] = frozenset({"model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"})
    commit: str = COMMIT
    url: str = ""
    cut_after: list[int] = field(default_factory=list)
    """For each coming download of an LFS file: close the connection after so many bytes."""
    resumes: bool = True
    corrupt: bool = False
    denied: tuple[int, str] | None = None
    requests: list[str] = field(default_factory=list)

    def of(self, repo: str) -> dict[str, bytes]:
        return {"someone/tiny": self.files, **self.others}.get(repo, {})

    def etag(self, name: str, data: bytes) -> str:
        if name in self.lfs:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def listing(self, repo: str) -> dict[str, object]:
        siblings = []
        for name, data in self.of(repo).items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": self.etag(name, data)}
            if name in self.lfs:
                entry["lfs"] = {"size": len(data), "sha256": self.etag(name, data), "pointerSize": 130}
            siblings.append(entry)
        return {"id": repo, "modelId": repo, "sha": self.commit, "siblings": siblings, "tags": []}


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, listening at `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            if hub.denied is not None:
                self.answer(hub.denied[0], b"no", {"X-Error-Code": hub.denied[1]})
                return
            words = path.removeprefix("/api/models").split("/", 5)[1:]
            repo, rest = "/".join(words[:2]), words[2:]
            if not hub.of(repo):
                self.answer(404, b"no", {"X-Error-Code": "RepoNotFound"})
            elif rest[:1] == ["resolve"]:
                self.file(repo, rest[2])
            elif rest in ([], ["revision", "main"], ["revision", hub.commit]):
                self.answer(200, json.dumps(hub.listing(repo)).encode(), {"Content-Type": "application/json"})
            else:
                self.answer(404, b"no", {"X-Error-Code": "RevisionNotFound"})

        def file(self, repo: str, name: str) -> None:
            if name not in hub.of(repo):
                self.answer(404, b"no", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
                return
            data = hub.of(repo)[name]
            headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{hub.etag(name, data)}"'}
            asked = self.headers.get("Range", "")
            status = 200
            if name in hub.lfs and self.command == "GET":
                data = b"?" + data[1:] if hub.corrupt else data
                if asked and hub.resumes:
                    status, data = 206, data[int(asked.removeprefix("bytes=").rstrip("-")) :]
                if hub.cut_after:
                    self.answer(status, data, headers, cut=hub.cut_after.pop(0))
                    return
            self.answer(status, data, headers)

        def answer(self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[:cut])
            if cut is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
