from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocr_mlx.domain import DataUri, FilePath, RemoteUrl, Upload
from ocr_mlx.errors import SourceForbidden, SourceNotFound, SourceTooLarge
from ocr_mlx.pages.fetch import FetchLimits, fetch

LIMITS = FetchLimits()


def fetch_path(path: Path | str, limits: FetchLimits = LIMITS) -> bytes:
    return fetch(FilePath(path=Path(path)), limits)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a ü.bin"
    file.write_bytes(b"x" * 3_000_000)
    assert fetch_path(file) == b"x" * 3_000_000


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    assert fetch_path(tmp_path / "link") == b"x"


def test_exactly_the_limit_is_read_and_one_more_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert fetch_path(file, FetchLimits(max_bytes=5)) == b"12345"
    with pytest.raises(SourceTooLarge, match="4 bytes"):
        fetch_path(file, FetchLimits(max_bytes=4))


def test_a_file_that_grows_while_it_is_read_meets_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"1")
    pieces = [b"12", b"34", b"56", b""]
    monkeypatch.setattr(os, "read", lambda handle, size: pieces.pop(0))
    with pytest.raises(SourceTooLarge):
        fetch_path(file, FetchLimits(max_bytes=3))


@pytest.mark.parametrize("source", [DataUri(media_type="image/png", data=b"123"), Upload(data=b"123")])
def test_bytes_at_hand_are_returned_under_the_limit(source: DataUri | Upload) -> None:
    assert fetch(source, LIMITS) == b"123"
    with pytest.raises(SourceTooLarge):
        fetch(source, FetchLimits(max_bytes=2))


@pytest.mark.parametrize("name", ["missing", "missing/deeper", "x" * 300])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceNotFound, match=r"missing|xxx") as caught:
        fetch_path(tmp_path / name)
    assert caught.value.hint


def test_a_file_used_as_a_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(SourceNotFound):
        fetch_path(tmp_path / "a" / "b")


def test_a_loop_of_links_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SourceNotFound):
        fetch_path(tmp_path / "a")


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "a\udcffb"])
def test_what_no_file_can_be_called_is_not_found(name: str) -> None:
    with pytest.raises(SourceNotFound) as caught:
        fetch_path(name)
    assert str(caught.value).encode()  # it can be printed


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceForbidden, match="folder"):
        fetch_path(tmp_path)


def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceForbidden, match="pipe"):
        fetch_path(tmp_path / "pipe")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices_are_refused(device: str) -> None:
    with pytest.raises(SourceForbidden, match="device"):
        fetch_path(device)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/cpuinfo", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_kernel_files_are_refused(path: str) -> None:
    with pytest.raises(SourceForbidden, match="system"):
        fetch_path(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    file.chmod(0)
    with pytest.raises(SourceForbidden, match="may not be read"):
        fetch_path(file)


def test_permission_denied_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(SourceForbidden, match="may not be read"):
        fetch_path(tmp_path / "a")


class TestRoots:
    @pytest.fixture
    def limits(self, tmp_path: Path) -> FetchLimits:
        (tmp_path / "in").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "in" / "a").write_bytes(b"in")
        (tmp_path / "out" / "a").write_bytes(b"out")
        return FetchLimits(file_roots=(tmp_path / "in",))

    def test_inside(self, tmp_path: Path, limits: FetchLimits) -> None:
        assert fetch_path(tmp_path / "in" / "a", limits) == b"in"
        assert fetch_path(tmp_path / "out" / ".." / "in" / "a", limits) == b"in"

    def test_outside_and_by_dots(self, tmp_path: Path, limits: FetchLimits) -> None:
        for path in (tmp_path / "out" / "a", tmp_path / "in" / ".." / "out" / "a"):
            with pytest.raises(SourceForbidden, match="outside"):
                fetch_path(path, limits)

    def test_a_link_out_of_the_root_is_refused(self, tmp_path: Path, limits: FetchLimits) -> None:
        (tmp_path / "in" / "link").symlink_to(tmp_path / "out" / "a")
        with pytest.raises(SourceForbidden, match="outside"):
            fetch_path(tmp_path / "in" / "link", limits)

    def test_a_root_that_is_a_link_itself(self, tmp_path: Path, limits: FetchLimits) -> None:
        (tmp_path / "root").symlink_to(tmp_path / "in")
        assert fetch_path(tmp_path / "in" / "a", FetchLimits(file_roots=(tmp_path / "root",))) == b"in"

    def test_a_neighbour_with_a_longer_name_is_outside(self, tmp_path: Path, limits: FetchLimits) -> None:
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "a").write_bytes(b"x")
        with pytest.raises(SourceForbidden):
            fetch_path(tmp_path / "inner" / "a", limits)

    def test_whether_a_file_outside_exists_is_not_told(self, tmp_path: Path, limits: FetchLimits) -> None:
        with pytest.raises(SourceForbidden):
            fetch_path(tmp_path / "out" / "missing", limits)

    def test_no_roots_at_all_means_no_files(self, tmp_path: Path, limits: FetchLimits) -> None:
        with pytest.raises(SourceForbidden):
            fetch_path(tmp_path / "in" / "a", FetchLimits(file_roots=()))


def test_addresses_can_be_switched_off() -> None:
    with pytest.raises(SourceForbidden, match="switched off"):
        fetch(RemoteUrl(url="http://example.com/"), FetchLimits(allow_urls=False))
