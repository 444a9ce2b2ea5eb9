"""Which machine is meant, however it is written."""

from __future__ import annotations

import pytest

from specs_lightning.system.addresses import host_in, is_loopback, is_same


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_alone_reaches_its_loopback_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.168.1.5", "node7", "localhost.evil.com", "127.0.0.1.nip.io"]
)
def test_others_may_reach_anything_else(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_is_the_same_in_either_form_and_a_name_is_that_of_nobody() -> None:
    assert is_same("::ffff:10.0.0.7", "10.0.0.7") and is_same("::1", "127.0.0.1")
    assert not is_same("10.0.0.7", "10.0.0.8") and not is_same("node7", "node7")


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("Node7:8000", "node7"),
        ("[::1]:8000", "::1"),
        ("localhost.", "localhost"),
        ("127.0.0.1@evil.com", "evil.com"),
        ("evil.com#@127.0.0.1", "evil.com"),
        ("[::1", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_header_is_read_without_its_port(header: str, host: str) -> None:
    assert host_in(header) == host
