from __future__ import annotations

import threading

import pytest

from ocr_mlx.errors import FetchFailed, SourceForbidden
from ocr_mlx.pages.addresses import check_public, is_public, resolve, resolve_within

PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]
PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_not_public(address: str) -> None:
    assert not is_public(address)


def test_one_private_address_condemns_the_name() -> None:
    check_public("host", ["8.8.8.8", "1.1.1.1"])
    with pytest.raises(SourceForbidden, match="host"):
        check_public("host", ["8.8.8.8", "127.0.0.1"])


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
def test_odd_spellings_of_loopback_resolve_to_loopback(spelling: str) -> None:
    assert resolve(spelling, 80) == ["127.0.0.1"]


def test_a_name_server_that_never_answers_is_given_up() -> None:
    done = threading.Event()

    def wait(host: str, port: int) -> list[str]:
        done.wait()
        return ["8.8.8.8"]

    with pytest.raises(FetchFailed, match="not found"):
        resolve_within(0.01, wait, "host", 80)
    done.set()


def test_a_name_that_does_not_exist() -> None:
    def fail(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    with pytest.raises(FetchFailed, match="not found"):
        resolve_within(5, fail, "host", 80)
