from __future__ import annotations

import pytest
from slng_sidecar.net.hosts import is_allowed_host, is_allowed_origin, is_loopback


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("localhost:8765", True),
        ("127.0.0.1:8765", True),
        ("127.8.9.1", True),
        ("[::1]:8765", True),
        ("sidecar", True),
        ("sidecar:8765", True),
        ("other:8080", True),
        ("other", False),
        ("", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("[::1", False),
    ],
)
def test_a_host_is_loopback_or_one_of_the_allowed_ones(host: str, is_allowed: bool) -> None:
    assert is_allowed_host(host, ["sidecar", "other:8080"]) is is_allowed


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        ("https://app.example", "127.0.0.1:8765", True),
        ("http://127.0.0.1:8765", "127.0.0.1:8765", True),
        ("https://sidecar", "sidecar", True),
        ("http://evil.example", "evil.example", False),
        ("http://evil.example", "127.0.0.1:8765", False),
        ("null", "127.0.0.1:8765", False),
    ],
)
def test_an_origin_is_allowed_or_a_page_of_the_server_itself(origin: str, host: str, is_allowed: bool) -> None:
    assert is_allowed_origin(origin, host, ["https://app.example"], ["sidecar"]) is is_allowed


def test_a_name_is_no_loopback_address() -> None:
    assert is_loopback("::1")
    assert not is_loopback("localhost")
