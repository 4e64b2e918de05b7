from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import pytest
from running import running_gateway
from slng_sidecar import serving


@pytest.mark.skipif(sys.platform != "linux", reason="the names of the options are Linux's")
def test_a_client_that_vanished_is_noticed_by_tcp() -> None:
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
async def test_a_request_whose_head_does_not_come_whole_is_given_up(
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
