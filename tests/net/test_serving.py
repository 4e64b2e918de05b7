"""Listening: who may connect to a Unix socket, when a socket is replaced, and clients that send nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slng_sidecar.net import serving
from support.running import running_gateway


@pytest.fixture
def permissive_umask() -> Iterator[None]:
    """Set a umask that removes no permission, as careless start scripts do."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.usefixtures("permissive_umask")
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_socket_has_the_permissions_that_are_set_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s.sock"
    with serving.listen_unix(path, mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving.listen_unix(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with serving.listen_unix(path, 0o600):
        with pytest.raises(serving.CannotListen, match="in use"):
            serving.listen_unix(path, 0o600)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_socket_that_cannot_be_probed_is_left_alone(tmp_path: Path) -> None:
    # The socket has another type here. In practice it belongs to another user, but root may always connect to those.
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(serving.CannotListen, match="in use"):
            serving.listen_unix(path, 0o600)
        assert path.is_socket()


@pytest.mark.skipif(sys.platform != "linux", reason="the names of the options are Linux's")
def test_tcp_keepalive_detects_a_client_that_vanished() -> None:
    with (
        serving.listen_tcp("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, interval, count, unacknowledged = (
                accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            )
            assert idle + interval * count == 120
            assert unacknowledged == 120_000


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "head"),
    [(b"", b""), (b"", b"\r\n"), (b"", b"POST / HTTP/1.1\r\nHost: loc"), (HEALTH, b"\r\n"), (HEALTH, b"POST / HT")],
)
async def test_a_request_whose_head_is_not_complete_in_time_is_aborted(
    first: bytes, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_HEAD_SECONDS", 0.3)
    async with running_gateway("ws://127.0.0.1:9") as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        try:
            writer.write(first)
            if first:
                assert b" 200 " in await reader.readuntil(b'"}')
            writer.write(head)
            with contextlib.suppress(ConnectionResetError):
                async with asyncio.timeout(10):
                    assert await reader.read() == b""
        finally:
            writer.close()


@pytest.mark.slow
async def test_an_idle_connection_is_kept_for_longer_than_clients_keep_it() -> None:
    async with running_gateway("ws://127.0.0.1:9") as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(2):
            writer.write(HEALTH)
            assert b" 200 " in await reader.readuntil(b'"}')
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(
                    5.5
                ):  # httpx's limit, which OpenAI's client uses, and uvicorn's default are 5 s
                    await reader.read()
        writer.close()
