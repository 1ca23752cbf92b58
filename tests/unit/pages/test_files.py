"""What a path may lead to: attacks on the fence around the roots, and what is no file."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocr_mlx.domain import FilePath
from ocr_mlx.errors import OcrMlxError, SourceForbidden, SourceNotFound, SourceTooLarge
from ocr_mlx.pages import files
from ocr_mlx.pages.fetch import FetchLimits, fetch
from ocr_mlx.pages.source import parse_source

SECRET, PUBLIC = b"secret", b"public"


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, ...]:
    """`in/folder/a` may be read, `out/folder/a` not."""
    for place, data in (("in", PUBLIC), ("out", SECRET)):
        (tmp_path / place / "folder").mkdir(parents=True)
        (tmp_path / place / "folder" / "a").write_bytes(data)
    return (tmp_path / "in",)


def read(path: Path | str, roots: tuple[Path, ...] | None = None, most: int = 1000) -> bytes:
    return fetch(FilePath(path=Path(path)), FetchLimits(file_roots=roots, max_bytes=most))


def refusal(path: Path | str, roots: tuple[Path, ...] | None) -> str:
    with pytest.raises(SourceForbidden) as caught:
        read(path, roots)
    return str(caught.value).replace(files.shown(Path(path)), "PATH")


# --- races -----------------------------------------------------------------------------------------------------------


@contextmanager
def swapping(place: Path, *others: Path) -> Iterator[None]:
    """`place` is one of `others` after the other, as fast as it goes."""
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for other in others:
                os.rename(other, place)
                os.rename(place, other)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_folder_that_becomes_a_link_while_it_is_read_leads_nowhere(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    """The same path is, from moment to moment, a folder in the root, a link out of it, and nothing."""
    place, link = tmp_path / "in" / "moving", tmp_path / "in" / "link"
    link.symlink_to(tmp_path / "out" / "folder")
    got = {PUBLIC: 0, SECRET: 0, b"": 0}
    end = time.monotonic() + 1.0
    with swapping(place, tmp_path / "in" / "folder", link):
        while time.monotonic() < end:
            try:
                got[read(place / "a", roots)] += 1
            except (SourceForbidden, SourceNotFound):
                got[b""] += 1
    assert got[SECRET] == 0 and got[PUBLIC] > 0 and got[b""] > 0


@pytest.mark.parametrize("part", ["folder", "a"])
def test_a_link_that_comes_after_the_check_is_not_followed(
    tmp_path: Path, roots: tuple[Path, ...], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without luck: the link is there exactly between the check and the opening."""
    target = tmp_path / "in" / "folder" / ("" if part == "folder" else "a")
    check = files.is_inside

    def check_then_swap(path: Path, some: tuple[Path, ...]) -> bool:
        answer = check(path, some)
        target.rename(tmp_path / "aside")
        target.symlink_to(tmp_path / "out" / target.relative_to(tmp_path / "in"))
        return answer

    monkeypatch.setattr(files, "is_inside", check_then_swap)
    with pytest.raises(SourceNotFound):
        read(tmp_path / "in" / "folder" / "a", roots)
    assert (tmp_path / "in" / "folder" / "a").read_bytes() == SECRET


CROSSING = """
import os, sys
from pathlib import Path
from ocr_mlx.pages.files import open_file
if os.geteuid() == 0:
    os.setuid(65534)  # root may list everything
handle = open_file(Path(sys.argv[1]), None)
sys.stdout.write(os.read(handle, 100).decode())
"""


def test_folders_that_may_be_crossed_and_not_listed_are_crossed() -> None:
    """As `/home` of many machines."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a").write_bytes(PUBLIC)
        Path(name).chmod(0o111)
        ran = subprocess.run([sys.executable, "-c", CROSSING, f"{name}/a"], capture_output=True, text=True)
        Path(name).chmod(0o700)
    assert ran.stdout.encode() == PUBLIC, ran.stderr[-500:]


# --- roots -----------------------------------------------------------------------------------------------------------


def test_what_is_outside_is_refused_in_the_same_words_whatever_is_there(
    tmp_path: Path, roots: tuple[Path, ...]
) -> None:
    out = tmp_path / "out"
    (out / "loop").symlink_to(out / "loop")
    (out / "broken").symlink_to(out / "nothing")
    (out / "away").symlink_to("/usr/lib")
    (out / "closed").mkdir(mode=0)
    os.mkfifo(out / "pipe")
    there = [out / "folder" / "a", out / "folder", out / "loop", out / "loop" / "a", out / "broken", out / "away"]
    there += [out / "closed" / "a", out / "pipe", out / "folder" / "a" / "b", Path("/dev/zero"), Path("/proc/self/mem")]
    missing = [out / "nothing", out / "nothing" / "deeper", tmp_path / "nothing", Path("/" + "x" * 300)]
    assert len({refusal(path, roots) for path in (*there, *missing)}) == 1


def test_dots_tell_nothing_of_links_outside(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    """`out/x/../../in/folder/a` is in the root by its letters; whether `out/x` is a link to elsewhere stays unknown."""
    (tmp_path / "out" / "link").symlink_to("/usr/lib")
    for name in ("folder", "link", "missing", "folder/a"):
        up = "/".join([".."] * (name.count("/") + 2))
        assert read(f"{tmp_path}/out/{name}/{up}/in/folder/a", roots) == PUBLIC


@pytest.mark.parametrize("address", ["in/folder/%2e%2e/%2E%2e/out/folder/a", "in/folder/..%2f../out/folder/a"])
def test_encoded_dots_are_dots(tmp_path: Path, roots: tuple[Path, ...], address: str) -> None:
    source = parse_source(f"file://{tmp_path}/{address}")
    with pytest.raises(SourceForbidden, match="outside"):
        fetch(source, FetchLimits(file_roots=roots))
    twice = parse_source(f"file://{tmp_path}/{address.replace('%', '%25')}")
    with pytest.raises(SourceNotFound):
        fetch(twice, FetchLimits(file_roots=roots))


def test_links_out_of_the_root_by_a_folder_and_by_a_chain(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "first").symlink_to("second")
    (tmp_path / "in" / "second").symlink_to("../out/folder")
    for name in ("link/folder/a", "first/a", "link/missing"):
        refusal(tmp_path / "in" / name, roots)
    (tmp_path / "in" / "back").symlink_to("../in/folder")
    assert read(tmp_path / "in" / "back" / "a", roots) == PUBLIC


def test_roots_of_every_kind(tmp_path: Path, roots: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "in" / "folder" / "a", tmp_path / "out" / "folder" / "a"
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    assert read(inside, (Path("/"),)) == read(inside, (Path("in"),)) == read("in/folder/a", (Path("in"),)) == PUBLIC
    assert read(inside, (inside,)) == read(inside, (tmp_path / "missing", tmp_path / "loop", tmp_path / "in")) == PUBLIC
    for nothing in (tmp_path / "missing", tmp_path / "loop", Path("a\0b"), inside.parent / "deeper"):
        refusal(inside, (nothing,))
    refusal(outside, (Path("in"),))


def test_a_link_to_the_root_leads_into_it(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    (tmp_path / "link").symlink_to("in")
    assert read(tmp_path / "link" / "folder" / "a", roots) == PUBLIC
    assert read(tmp_path / "in" / "folder" / "a", (tmp_path / "link",)) == PUBLIC


# --- what is no file -------------------------------------------------------------------------------------------------


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        assert "device or a pipe" in refusal("s", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_block_device_is_refused_wherever_it_is(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "disk", 0o060600, os.makedev(7, 99))
    except PermissionError:
        pytest.skip("this machine makes no devices")
    assert refusal(tmp_path / "disk", None).startswith("PATH ")


def test_a_pipe_with_a_writer_is_refused_and_not_drained(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    handle = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    os.write(handle, b"for somebody else")
    assert "device or a pipe" in refusal(tmp_path / "pipe", None)
    assert os.read(handle, 100) == b"for somebody else"
    os.close(handle)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("by", ["/proc/self/environ", "/proc/thread-self/environ", "/dev/../proc/self/environ", "link"])
def test_the_environment_is_no_document(tmp_path: Path, by: str) -> None:
    (tmp_path / "link").symlink_to("/proc/self/environ")
    assert "belongs to the system" in refusal(tmp_path / by if by == "link" else by, (Path("/"),))


def test_what_the_kernel_makes_up_is_known_by_its_device_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where `/proc` is mounted a second time, under another name."""
    (tmp_path / "a").write_bytes(PUBLIC)
    monkeypatch.setattr(files, "_kernel_devices", lambda: {(tmp_path / "a").stat().st_dev})
    assert "belongs to the system" in refusal(tmp_path / "a", None)
    monkeypatch.undo()
    assert os.stat("/").st_dev not in files._kernel_devices()


def test_what_this_process_has_open_is_read_by_its_own_path_or_not_at_all(tmp_path: Path) -> None:
    """`/dev/fd/N` and `/dev/stdin` are a way around names: a file that was removed, a pipe, a socket."""
    (tmp_path / "gone").write_bytes(SECRET)
    handle = os.open(tmp_path / "gone", os.O_RDONLY)
    (tmp_path / "gone").unlink()
    for path in (f"/dev/fd/{handle}", f"/proc/self/fd/{handle}", "/dev/stdin"):
        with pytest.raises((SourceForbidden, SourceNotFound)):
            read(path)
    os.close(handle)


def test_a_file_that_claims_terabytes_takes_none(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        try:
            file.truncate(1 << 42)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            file.truncate(1 << 33)
    began = time.monotonic()
    with pytest.raises(SourceTooLarge):
        read(tmp_path / "sparse", most=100 * 2**20)
    assert time.monotonic() - began < 2


def test_a_file_that_grows_and_one_that_shrinks(tmp_path: Path) -> None:
    over = threading.Event()
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1000)

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not over.is_set():
                file.write(b"x" * 4096)
                if file.tell() > 50_000_000:
                    file.truncate(1000)

    thread = threading.Thread(target=grow)
    thread.start()
    for _ in range(50):
        try:
            assert len(read(path, most=100_000)) <= 100_000
        except SourceTooLarge:
            pass
    over.set()
    thread.join()


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8_are_read_and_can_be_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.png")
    try:
        (tmp_path / name).write_bytes(PUBLIC)
    except OSError:
        pytest.skip("this disk takes no such names")
    assert fetch(parse_source(f"file://{tmp_path}/a%FF.png"), FetchLimits()) == PUBLIC
    with pytest.raises(SourceNotFound, match=r"b\?\.png") as caught:
        fetch(parse_source(f"file://{tmp_path}/b%FF.png"), FetchLimits())
    assert str(caught.value).encode()


@pytest.mark.parametrize(
    "path", ["/x\x1b[2J\r\nHTTP/1.1 200", "/" + "y" * 5000, "/" + "z/" * 5000, "/\u202egnp", "/a\0b", "/\ud800"]
)
def test_a_message_is_one_line_of_bearable_length(path: str) -> None:
    with pytest.raises(OcrMlxError) as caught:
        read(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_the_resolved_path_is_never_shown(tmp_path: Path, roots: tuple[Path, ...]) -> None:
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out" / "folder" / "unknown")
    (tmp_path / "in" / "gone").symlink_to(tmp_path / "in" / "elsewhere")
    for name, some in (("link", roots), ("gone", roots), ("link", None)):
        with pytest.raises((SourceForbidden, SourceNotFound)) as caught:
            read(tmp_path / "in" / name, some)
        assert "unknown" not in str(caught.value) and "elsewhere" not in str(caught.value)
