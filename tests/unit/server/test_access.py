from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ocr_mlx.server.access import is_reachable, settle
from ocr_mlx.settings import Settings

OPEN_TO_ALL = ("0.0.0.0", "::", "192.168.1.5", "fe80::1%eth0", "8.8.8.8", "::ffff:192.168.1.5")
LOOPBACK = ("127.0.0.1", "127.0.0.2", "::1")


@pytest.mark.parametrize(("addresses", "reachable"), [(OPEN_TO_ALL, True), (LOOPBACK, False)])
def test_which_addresses_other_machines_reach(addresses: tuple[str, ...], reachable: bool) -> None:
    assert {is_reachable(address) for address in addresses} == {reachable}


@pytest.mark.parametrize("address", OPEN_TO_ALL)
def test_a_server_that_others_reach_makes_a_token_and_tells_it_nobody(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (settings, token), (_, other) = (settle(Settings(), address) for _ in range(2))
    assert settings.token == token and len(token) >= 32 and token != other
    assert "OCR_MLX_OPEN" in caplog.text and token not in caplog.text and token not in repr(settings)


@pytest.mark.parametrize("address", LOOPBACK)
def test_on_loopback_nothing_changes(address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert settle(Settings(), address) == (Settings(), "")
    assert settle(Settings(token="t"), address) == (Settings(token="t"), "")
    assert not caplog.records


def test_a_token_that_was_set_is_asked_for_and_not_told() -> None:
    for settings in (Settings(token="t"), Settings(token="t", open=True)):
        assert settle(settings, "0.0.0.0") == (settings, "")


def test_a_server_may_be_opened_on_purpose(caplog: pytest.LogCaptureFixture) -> None:
    assert settle(Settings(open=True), "0.0.0.0") == (Settings(open=True), "")
    assert "without a token" in caplog.text


def test_gaps_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("t")
    file.chmod(0o600)
    settle(Settings(token="t", token_file=file, allowed_hosts=("*",)), "127.0.0.1")
    assert not caplog.records
    file.chmod(0o640)
    settle(Settings(token="t", token_file=file), "127.0.0.1")
    assert "chmod 600" in caplog.text
    settle(Settings(allowed_hosts=("*",)), "127.0.0.1")
    assert "OCR_MLX_ALLOWED_HOSTS=*" in caplog.text
