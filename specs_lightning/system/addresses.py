"""Which machine an address or a name means."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_in(host: str) -> Address | None:
    """The address that is written there, IPv4 in IPv6 as what it stands for; None of a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    address = address_in(host)
    return host == "localhost" if address is None else address.is_loopback


def is_same(host: str, other: str) -> bool:
    """Whether two hosts are one address, or both are this machine."""
    address = address_in(host)
    return (address is not None and address == address_in(other)) or (is_loopback(host) and is_loopback(other))


def host_in(header: str) -> str:
    """The name or address in a `Host` header, without its port; empty where there is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""
