"""Keys in files are replaced while the sidecar runs, without any signal to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from slng_sidecar.engines import signal
from support.http_tools import http_client
from support.running import NOVA, STT_INIT, gateway_and_simulator, talking


def put(path: Path, key: str) -> None:
    """Replace a file in the way Kubernetes and Docker do."""
    path.with_suffix(".new").write_text(f"{key}\n")
    path.with_suffix(".new").replace(path)


async def test_new_sessions_use_the_new_key_and_a_running_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    put(file, "key-before")
    monkeypatch.setenv("SLNG_API_KEY_FILE", str(file))
    async with gateway_and_simulator(slng_api_key=None) as (url, simulator):
        async with talking(url, "stt", NOVA, subprotocol="slng-sidecar.v1") as running:
            await running.send(STT_INIT)
            await running.until("ready")
            put(file, "key-after")
            simulator.inject(do="drop", when="audio", kind="stt")
            await running.send(signal.encode([signal.SignalWord(1)]))
            async with asyncio.timeout(10):
                while (await running.until("status"))["state"] != "connected":
                    pass
            async with talking(url, "stt", NOVA) as later:
                await later.send(STT_INIT)
                await later.until("ready")
        keys = [record.headers["authorization"] for record in simulator.log.of("stt")]
        assert keys == ["Bearer key-before", "Bearer key-before", "Bearer key-after"]


async def test_the_new_token_is_valid_at_once_and_the_old_one_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    put(file, "token-before")
    monkeypatch.setenv("SIDECAR_TOKEN_FILE", str(file))
    async with gateway_and_simulator() as (url, _), http_client(url) as client:

        async def status(token: str) -> int:
            return (await client.get("/v1/status", headers={"X-API-Key": token})).status_code

        assert (await status("token-before"), await status("token-after")) == (200, 401)
        put(file, "token-after")
        assert (await status("token-before"), await status("token-after")) == (401, 200)
