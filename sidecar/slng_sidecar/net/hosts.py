"""Host and Origin checks, which keep web pages of other sites away from a server on localhost."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit


def is_allowed_host(host: str, allowed: Collection[str] = ()) -> bool:
    """Return whether a Host header names loopback or one of the ``allowed`` hosts.

    After DNS rebinding, the name of another site leads to localhost, but the browser still sends that name as Host.

    Args:
        host: the header, with or without a port.
        allowed: host names, each with or without a port.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name in allowed or host in allowed or is_loopback(name)


def is_allowed_origin(origin: str, host: str, allowed: Collection[str], allowed_hosts: Collection[str] = ()) -> bool:
    """Return whether an Origin header names one of the ``allowed`` origins, or a page of the server itself.

    Args:
        origin: the header.
        host: the Host header of the same request.
        allowed: origins such as ``https://example.com``.
        allowed_hosts: hosts under which the server's own pages may be opened, besides loopback.
    """
    if origin in allowed:
        return True
    return origin in (f"http://{host}", f"https://{host}") and is_allowed_host(host, allowed_hosts)


def is_loopback(address: str) -> bool:
    """Return whether an address is a loopback address. A name is none."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
