from __future__ import annotations

import os
import stat
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ocr_mlx.domain import Block, DecodeParams, Finish, Page, PageResult, PageStatus, Prompt, Quantization
from ocr_mlx.engine.page_cache import PageCache, repeats
from ocr_mlx.engine.page_files import FOLDER, PageFiles
from ocr_mlx.engine.page_key import PageKey, about, identity, keys
from ocr_mlx.model.base import LoadedModel, Mode
from tests.unit.fakes import FakeClock, fake_model, page

RESULT = PageResult(
    index=3,
    following=(4,),
    status=PageStatus.OK,
    text="Grüße 你好",
    raw_text="Grüße  你好",
    token_ids=(5, 700, 70000),
    blocks=(Block(label="title", text="Grüße", box=(1.0, 2.0, 3.5, 4.0), normalized=(0.1, 0.2, 0.3, 0.4)),),
    confidence=0.987654321,
    prompt_tokens=7,
    generated_tokens=3,
    finish=Finish.EOS,
    effective_size=(896, 672),
    seconds=1.5,
    decode_steps=3,
    drafted=2,
    accepted=1,
)
SAME = replace(RESULT, index=0, following=(), seconds=0.0, decode_steps=0, drafted=0, accepted=0, cached=True)
"""What comes back of it."""


def key(number: int, pixels: int | None = None) -> PageKey:
    return PageKey(pixels=f"{number if pixels is None else pixels:064x}", whole=f"{number:064x}")


def text(length: int, seed: int) -> PageResult:
    """A result whose text does not compress well."""
    return replace(RESULT, text=bytes((seed * 7919 + i * i * 31) % 96 + 32 for i in range(length)).decode())


class Time:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def files(folder: Path, *, ttl: float = 100.0, **more: object) -> PageFiles:
    return PageFiles(folder, ttl=ttl, **more)  # type: ignore[arg-type]


def paths(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).iterdir())


# --- keys ------------------------------------------------------------------------------------------------------------


def whole(
    model: LoadedModel | None = None,
    *,
    of: Page | None = None,
    prompt: Prompt | None = None,
    mode: str = "plain",
    params: DecodeParams | None = None,
    precision: str = "",
) -> PageKey:
    made = keys(
        about(model or fake_model([])),
        prompt or Prompt(),
        Mode(name=mode),
        params or DecodeParams(),
        precision=precision,
    )
    return made(of or page(0, 0))


def test_the_same_question_has_the_same_key() -> None:
    assert whole() == whole()
    assert whole(of=page(5, 0)) == whole()
    assert len(whole().whole) == 64


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": Prompt(text="What?")},
        {"prompt": Prompt(system="Be brief.")},
        {"mode": "short"},
        {"params": DecodeParams(max_new_tokens=5)},
        {"params": DecodeParams(stop=("a",))},
        {"params": DecodeParams(seed=1)},
        {"params": DecodeParams(json_schema="{}")},
        {"precision": "float16"},
    ],
)
def test_whatever_is_asked_otherwise_changes_the_key_but_not_that_of_the_pixels(changed: dict[str, object]) -> None:
    other = whole(**changed)  # type: ignore[arg-type]
    assert other.whole != whole().whole
    assert other.pixels == whole().pixels


def test_texts_that_only_look_alike_together_have_different_keys() -> None:
    assert whole(prompt=Prompt(text="ab")).whole != whole(prompt=Prompt(text="a", system="b")).whole


def test_pixels_sizes_and_following_pages_count() -> None:
    first = page(0, 0)
    other = first.image.copy()
    other.putpixel((15, 15), (254, 255, 255))
    turned = Image.frombytes("RGB", (8, 32), first.image.tobytes())
    seen = {
        whole(of=one).pixels
        for one in (
            first,
            replace(first, image=other),
            replace(first, image=turned, width=8, height=32),
            replace(first, following=(first.image,)),
            replace(first, following=(first.image, first.image)),
        )
    }
    assert len(seen) == 5


def test_another_model_has_another_key(tmp_path: Path) -> None:
    plain = fake_model([])
    refs = [
        replace(plain.ref, path=tmp_path),
        replace(plain.ref, path=tmp_path, revision="abc"),
        replace(plain.ref, path=tmp_path, quantization=Quantization(bits=4, group_size=64)),
        replace(plain.ref, path=tmp_path, adapter=tmp_path / "adapter"),
        plain.ref,
    ]
    models = [replace(plain, ref=ref, kept={}) for ref in refs] + [replace(plain, bytes=2000, kept={})]
    assert len({whole(model).whole for model in models}) == 6
    assert whole(replace(plain, ref=replace(plain.ref, id="another name"), kept={})) == whole(plain)


def test_a_family_whose_texts_name_their_page_has_a_key_for_each_place() -> None:
    plain = fake_model([])
    numbered = replace(plain, family=replace(plain.family, numbered=True), kept={})
    first, fifth = page(0, 0), page(5, 0)
    places = [first, fifth, replace(fifth, origin="pdf")]
    assert len({whole(numbered, of=place).whole for place in places}) == 3
    assert len({whole(numbered, of=place).pixels for place in places}) == 1
    assert len({whole(plain, of=place).whole for place in places}) == 1


def test_a_folder_whose_weights_change_is_another_model(tmp_path: Path) -> None:
    ref = replace(fake_model([]).ref, path=tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    seen = [identity(ref)]
    os.utime(weights, ns=(1, 1))
    seen.append(identity(ref))
    weights.write_bytes(b"longer")
    os.utime(weights, ns=(1, 1))
    seen.append(identity(ref))
    weights.rename(tmp_path / "other.safetensors")
    seen.append(identity(ref))
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i])


def test_only_what_leaves_nothing_to_chance_repeats_itself() -> None:
    assert repeats(DecodeParams()) and repeats(DecodeParams(temperature=0.5, seed=1))
    assert not repeats(DecodeParams(temperature=0.5))


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_result_comes_back_as_it_was_but_for_what_this_run_did_not_do() -> None:
    cache = PageCache(10_000)
    assert cache.get(key(1)) is None
    cache.put(key(1), RESULT)
    assert cache.get(key(1)) == SAME
    assert cache.get(key(2)) is None


def test_memory_is_bounded_and_what_was_used_least_lately_goes_first() -> None:
    one = PageCache(100_000)
    one.put(key(1), text(2000, 1))
    cache = PageCache(3 * one.held + one.held // 2)
    for number in (1, 2, 3):
        cache.put(key(number), text(2000, number))
    assert cache.get(key(1)) is not None
    cache.put(key(4), text(2000, 4))
    assert [number for number in (1, 2, 3, 4) if cache.get(key(number))] == [1, 3, 4]
    for number in range(5, 60):
        cache.put(key(number), text(2000, number))
        assert cache.held <= 3 * one.held + one.held // 2
    cache.put(key(4), text(2_000_000, 4))
    assert cache.get(key(4)) is None, "one page must not push out all others for nothing"
    cache.close()
    assert cache.held == 0


def test_the_estimate_is_fair() -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        cache = PageCache(10**8)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(60):
            cache.put(key(number), text(3000, number))
        really = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.8 * really <= cache.held <= 1.25 * really


def test_a_cache_without_room_is_off() -> None:
    assert not PageCache(0).is_on and PageCache(1).is_on


def test_what_was_said_of_the_same_pixels_can_be_had_whatever_was_asked() -> None:
    cache = PageCache(10_000)
    cache.remember(key(1, pixels=7), "as it was")
    cache.remember(key(1, pixels=7), "")
    assert cache.earlier(key(2, pixels=7)) == "as it was"
    assert cache.earlier(key(1, pixels=8)) == ""


def test_many_threads_at_once() -> None:
    cache = PageCache(50_000)
    wrong: list[object] = []

    def work(start: int) -> None:
        for number in range(start, start + 200):
            cache.put(key(number % 40), text(500, number % 40))
            found = cache.get(key(number % 40))
            if found is not None and found.text != text(500, number % 40).text:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(i * 13,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 0 < cache.held <= 50_000


# --- disk ------------------------------------------------------------------------------------------------------------


def test_nothing_is_written_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PageCache(10_000).put(key(1), RESULT)
    assert list(tmp_path.iterdir()) == []


def test_another_process_finds_what_was_written(tmp_path: Path) -> None:
    PageCache(0, files=files(tmp_path / "new")).put(key(1), RESULT)
    assert PageCache(0, files=files(tmp_path / "new")).get(key(1)) == SAME
    (path,) = paths(tmp_path / "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / FOLDER).mkdir(mode=0o755)
    PageCache(0, files=files(tmp_path)).put(key(1), RESULT)
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "other", "folder", "not json", "status"])
def test_a_damaged_file_is_no_result_and_goes(tmp_path: Path, damage: str) -> None:
    cache = PageCache(0, files=files(tmp_path))
    cache.put(key(1), RESULT)
    (path,) = paths(tmp_path)
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "other":
        cache.put(key(2), RESULT)
        paths(tmp_path)[1].replace(path)
    else:
        status = zlib.compress(zlib.decompress(data).replace(b'"status":"ok"', b'"status":"failed"'))
        damaged = {"cut": data[:-9], "garbage": b"\0" * 50, "empty": b"", "not json": zlib.compress(b"{")}
        path.write_bytes(damaged.get(damage, status))
    assert cache.get(key(1)) is None
    assert paths(tmp_path) == ([path] if damage == "folder" else [])


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    cache = PageCache(0, files=files(tmp_path))
    cache.put(key(1), RESULT)
    (path,) = paths(tmp_path)
    target = path.rename(tmp_path / "elsewhere")
    path.symlink_to(target)
    assert cache.get(key(1)) is None
    assert target.exists() and not path.is_symlink()


def test_a_folder_that_is_a_link_is_neither_swept_nor_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    PageCache(0, files=files(tmp_path / "another")).put(key(1), RESULT)
    target = (tmp_path / "another" / FOLDER).rename(tmp_path / "documents")
    (target / "notes.txt").write_text("not ours")
    (tmp_path / FOLDER).symlink_to(target)
    before = sorted(target.iterdir())
    cache = PageCache(0, files=files(tmp_path))
    assert cache.get(key(1)) is None
    cache.put(key(2), RESULT)
    assert sorted(target.iterdir()) == before and len(before) == 2
    assert len(caplog.records) == 1 and str(tmp_path) not in caplog.text


def test_what_somebody_else_wrote_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PageCache(0, files=files(tmp_path))
    cache.put(key(1), RESULT)
    assert cache.get(key(1)) == SAME
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert cache.get(key(1)) is None
    cache.put(key(2), RESULT)
    assert len(paths(tmp_path)) == 1


def test_time_is_over_for_old_files(tmp_path: Path) -> None:
    time = Time()
    cache = PageCache(0, files=files(tmp_path, now=time))
    cache.put(key(1), RESULT)
    (path,) = paths(tmp_path)
    os.utime(path, (1e9, 1e9))
    time.now += 99
    assert cache.get(key(1)) == SAME
    time.now += 1
    assert cache.get(key(1)) is None and paths(tmp_path) == []


def test_old_and_foreign_files_are_swept_while_nobody_reads(tmp_path: Path) -> None:
    time, clock = Time(), FakeClock()
    disk = files(tmp_path, now=time)
    cache = PageCache(0, files=disk, clock=clock)
    for number in (1, 2):
        cache.put(key(number), RESULT)
    first, second = paths(tmp_path)
    os.utime(first, (1e9, 1e9))
    os.utime(second, (1e9 + 50, 1e9 + 50))
    whose = first.with_name("notes.txt")
    whose.write_text("not ours")
    writing, left = (first.with_name(f"{first.stem}.{n:016x}.tmp") for n in (1, 2))
    for path, at in ((writing, 1e9 + 70), (left, 1e9)):
        path.write_bytes(b"half")
        os.utime(path, (at, at))
    beside = tmp_path / "beside.page"
    beside.write_text("outside of the folder")
    time.now += 110
    clock.advance(100)
    assert paths(tmp_path) == sorted([second, writing]) and beside.exists()
    time.now += 100
    clock.advance(100)
    assert paths(tmp_path) == []
    cache.close()
    assert clock.jobs == {}


def test_the_oldest_files_go_when_there_are_too_many(tmp_path: Path) -> None:
    time = Time()
    PageFiles(tmp_path, ttl=1e9).put("0" * 64, b"x" * 100)
    disk = files(tmp_path, most=1000, now=time, ttl=1e9)
    for number in range(1, 12):
        disk.put(f"{number:064x}", b"x" * 100)
        path = tmp_path / FOLDER / f"{number:064x}.page"
        if path.exists():
            os.utime(path, (time.now + number, time.now + number))
    kept = [int(path.stem, 16) for path in paths(tmp_path)]
    assert len(kept) <= 10 and kept[-1] == 11 and 1 not in kept


def test_a_disk_that_fails_costs_no_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = PageCache(10_000, files=files(blocked))
    cache.put(key(1), RESULT)
    cache.put(key(2), RESULT)
    assert cache.get(key(1)) == SAME
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "page cache" in told[0] and str(tmp_path) not in told[0]
