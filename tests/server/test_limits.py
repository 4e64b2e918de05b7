"""The limits of concurrent sessions: in total, and for each client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from slng_sidecar.simulator import running_simulator
from support.running import AURA, KEY, NOVA, STT_INIT, Talk, gateway_and_simulator, running_gateway
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import InvalidStatus

STT = f"/v1/bridges/unmute/stt/{NOVA}"
TTS = f"/v1/bridges/unmute/tts/{AURA}"
# Two clients: every address of 127/8 belongs to this machine.
ONE, OTHER = "127.0.0.1", "127.0.0.2"


@contextlib.asynccontextmanager
async def session(url: str, address: str) -> AsyncIterator[Talk]:
    """Keep a session open from an address of this machine."""
    async with connect(
        url.replace("http", "ws") + STT, local_addr=(address, 0), compression=None, proxy=None
    ) as socket:
        talk = Talk(socket)
        await talk.send(STT_INIT)
        await talk.until("ready")
        yield talk


def http(url: str, address: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(local_address=address)
    return httpx.AsyncClient(trust_env=False, base_url=url, transport=transport)


async def refusal(opening: contextlib.AbstractAsyncContextManager[Any]) -> str:
    with pytest.raises(InvalidStatus) as caught:
        await opening.__aenter__()
    response = caught.value.response
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    error = httpx.Response(429, content=bytes(response.body or b"")).json()["error"]
    assert (error["code"], error["retryable"]) == ("session_limit", True)
    message: str = error["message"]
    return message


async def test_one_client_cannot_take_all_places() -> None:
    async with gateway_and_simulator(sidecar_max_sessions_per_client=2) as (url, simulator):
        async with session(url, ONE), session(url, ONE), http(url, ONE) as client:
            dials = simulator.log.dials
            message = await refusal(session(url, ONE))
            assert "127.0.0.1 uses all 2 sessions" in message
            assert "SIDECAR_MAX_SESSIONS_PER_CLIENT" in message
            for request in (
                client.post(TTS, json={"text": "n1"}),
                client.post("/v1/audio/speech", json={"model": "tts-1", "input": "n1"}),
                client.post(STT, content=b"\0" * 320, headers={"Content-Type": "audio/wav"}),
                client.post("/v1/audio/transcriptions", files={"file": b"\0" * 320}, data={"model": "whisper-1"}),
            ):
                reply = await request
                assert (reply.status_code, reply.json()["error"]["code"]) == (429, "session_limit"), reply.url
            assert simulator.log.dials == dials
            assert (await client.get("/v1/status")).status_code == 200
            counted = (await client.get("/metrics")).text
            assert 'slng_sidecar_refused_requests_total{code="session_limit"} 5.0' in counted
            async with session(url, OTHER), http(url, OTHER) as another:
                assert (await another.post(TTS, json={"text": "n1"})).status_code == 200
        async with session(url, ONE):
            pass


async def test_the_limit_for_all_is_below_what_clients_may_have_together() -> None:
    limits: dict[str, Any] = {"sidecar_max_sessions": 3, "sidecar_max_sessions_per_client": 2}
    async with (
        gateway_and_simulator(**limits) as (url, _),
        session(url, ONE),
        session(url, ONE),
        session(url, OTHER),
    ):
        assert "(SIDECAR_MAX_SESSIONS)" in await refusal(session(url, OTHER))


async def test_without_a_limit_of_its_own_one_client_may_have_all_places() -> None:
    async with (
        gateway_and_simulator(sidecar_max_sessions=3) as (url, _),
        session(url, ONE),
        session(url, ONE),
        session(url, ONE),
    ):
        assert "(SIDECAR_MAX_SESSIONS)" in await refusal(session(url, ONE))


async def test_all_clients_of_the_unix_socket_count_as_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    settings = {"sidecar_uds": path, "slng_api_key": KEY, "sidecar_max_sessions_per_client": 1}
    async with running_simulator() as simulator, running_gateway(simulator.url, **settings):
        opening = {"path": str(path), "uri": f"ws://localhost{STT}", "compression": None}
        async with unix_connect(**opening):
            assert "the Unix socket uses all 1 sessions" in await refusal(unix_connect(**opening))
