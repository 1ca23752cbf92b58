"""Documents that were read, as folders `<unix>-<8 hex>`: the source, its pages, the result. Blocks: call it off the event loop.

A folder gets its name when it is whole, and loses it before it is removed: what a kill leaves behind is hidden and swept
later. Only folders with an `entry.json` are ours; whatever else lies there is neither shown nor removed.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, Literal

from ocr_mlx.server.deepseek.pictures import Picture, data_uri
from ocr_mlx.server.deepseek.schemas import HistoryAnswer, HistoryEntry, OcrAnswer
from ocr_mlx.settings import Settings
from ocr_mlx.utils.private import make_private
from ocr_mlx.utils.records import state_folder

log = logging.getLogger(__name__)

MOST: Final = 200
"""Documents that are kept; the oldest go first."""
FORMATS: Final = ("md", "json", "raw")
Form = Literal["md", "json", "raw"]
_ID: Final = re.compile(r"[0-9]{1,12}-[0-9a-f]{8}")
_NEW, _GONE = ".new-", ".gone-"
_LEFT_BEHIND: Final = 600.0
"""Seconds after which a hidden folder is nobody's work any more."""
_ENTRY, _RESULT, _TEXT, _RAW = "entry.json", "result.json", "result.md", "raw.txt"
_FILES: Final = {"md": (_TEXT, "{}.md", "text/markdown"), "json": (_RESULT, "{}.json", "application/json")} | {
    "raw": (_RAW, "{}_raw.txt", "text/plain")
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """A file that goes out under `name`."""

    name: str
    media_type: str
    data: bytes


def history_of(settings: Settings) -> History:
    """Where the settings say."""
    return History(settings.history_dir or state_folder(settings.state_dir) / "runs", ttl=settings.history_ttl)


class History:
    """The folder of one server, or of several."""

    def __init__(self, folder: Path, *, ttl: float) -> None:
        """`ttl` in seconds, 0 keeps nothing. The folder is made when the first document comes."""
        self._folder = folder / "history"
        self.ttl = ttl

    def save(self, answer: OcrAnswer, source: bytes, kind: str, pictures: Sequence[Picture | None]) -> str | None:
        """Keep a document; its id, None where no history is kept or the disk does not take it."""
        if self.ttl <= 0:
            return None
        name = f"{int(time.time())}-{secrets.token_hex(4)}"
        temporary = self._folder / f"{_NEW}{name}"
        try:
            make_private(self._folder)
            temporary.mkdir(mode=0o700)
            _fill(temporary, answer.model_copy(update={"history_id": name}), source, kind, pictures)
            temporary.rename(self._folder / name)
        except OSError as error:
            log.warning("the history cannot be written: %s", error.strerror)
            shutil.rmtree(temporary, ignore_errors=True)
            return None
        self.sweep()
        return name

    def entries(self, most: int) -> list[HistoryEntry]:
        """The latest `most`, the newest first."""
        return [HistoryEntry.model_validate(entry) for _, entry in self._living()[:most]]

    def find(self, name: str) -> HistoryAnswer | None:
        """A document with its pages' pictures; None for one that is not there, or no longer."""
        folder = self._alive(name)
        if folder is None:
            return None
        try:
            kept = OcrAnswer.model_validate_json((folder / _RESULT).read_bytes())
        except (OSError, ValueError):
            return None
        pages = []
        for number, page in enumerate(kept.pages, 1):
            picture = _bytes(folder / f"page_{number}.jpg")
            pages.append(page.model_copy(update={"image_data": None if picture is None else data_uri(picture)}))
        files = [f"page_{number}.jpg" if page.image_data else None for number, page in enumerate(pages, 1)]
        source = next((path.name for path in folder.glob("source.*")), None)
        fields = {name: getattr(kept, name) for name in OcrAnswer.model_fields}
        return HistoryAnswer(**fields | {"id": name, "pages": pages, "source_file": source, "page_files": files})

    def download(self, name: str, form: Form) -> Download | None:
        """One of a document's files, as an attachment named after the document."""
        folder = self._alive(name)
        file, title, media_type = _FILES[form]
        data = None if folder is None else _bytes(folder / file)
        if folder is None or data is None:
            return None
        stem = PurePath(str(_entry(folder).get("fileName", ""))).stem.strip(". ") or "result"
        return Download(name=title.format(stem), media_type=media_type, data=data)

    def delete(self, name: str) -> bool:
        """Remove a document; whether there was one."""
        folder = self._alive(name)
        return folder is not None and self._remove(folder)

    def sweep(self) -> None:
        """Remove what has expired, what is too much, and what a killed process left behind."""
        for path in self._hidden():
            shutil.rmtree(path, ignore_errors=True)
        living = {folder for folder, _ in self._living()[:MOST]}
        for folder in self._folders():
            if folder not in living and _entry(folder):
                self._remove(folder)

    def _living(self) -> list[tuple[Path, dict[str, Any]]]:
        found = [(folder, _entry(folder)) for folder in self._folders()]
        fresh = [(folder, entry) for folder, entry in found if self._is_fresh(entry)]
        return sorted(fresh, key=lambda pair: (pair[1]["at"], pair[0].name), reverse=True)

    def _is_fresh(self, entry: dict[str, Any]) -> bool:
        return bool(entry) and time.time() - entry["at"] < self.ttl

    def _alive(self, name: str) -> Path | None:
        if not _ID.fullmatch(name):
            return None
        folder = self._folder / name
        return folder if self._is_fresh(_entry(folder)) else None

    def _folders(self) -> Iterator[Path]:
        yield from (path for path in self._listed() if _ID.fullmatch(path.name))

    def _hidden(self) -> Iterator[Path]:
        for path in self._listed():
            if path.name.startswith((_NEW, _GONE)) and time.time() - _changed(path) > _LEFT_BEHIND:
                yield path

    def _listed(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except OSError:
            return []

    def _remove(self, folder: Path) -> bool:
        hidden = folder.with_name(f"{_GONE}{folder.name}")
        try:
            folder.rename(hidden)
        except OSError:
            return False
        shutil.rmtree(hidden, ignore_errors=True)
        return True


def _fill(folder: Path, answer: OcrAnswer, source: bytes, kind: str, pictures: Sequence[Picture | None]) -> None:
    _write(folder / f"source.{kind.lower()}", source)
    for number, picture in enumerate(pictures, 1):
        if picture is not None:
            _write(folder / f"page_{number}.jpg", picture.jpeg)
    bare = answer.model_copy(update={"pages": [page.model_copy(update={"image_data": None}) for page in answer.pages]})
    _write(folder / _RESULT, bare.model_dump_json(by_alias=True, indent=2).encode())
    _write(folder / _TEXT, answer.text.encode())
    _write(folder / _RAW, answer.raw_text.encode())
    fields = {name: getattr(answer, name) for name in HistoryEntry.model_fields if name in OcrAnswer.model_fields}
    entry = HistoryEntry(**fields | {"id": str(answer.history_id), "pages": len(answer.pages)})
    told = entry.model_dump(by_alias=True) | {"at": time.time()}
    _write(folder / _ENTRY, json.dumps(told, ensure_ascii=False).encode())


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _entry(folder: Path) -> dict[str, Any]:
    """What `entry.json` says; nothing where there is none of ours."""
    try:
        found = json.loads((folder / _ENTRY).read_bytes())
        HistoryEntry.model_validate(found)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found.get("at"), int | float) else {}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
