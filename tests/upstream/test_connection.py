"""An upstream connection over real sockets, through a gateway."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from slng_sidecar.simulator import SimulatorOptions
from slng_sidecar.upstream import connection
from support.running import AURA, KEY, NOVA, STT_INIT, TTS_INIT, gateway_and_simulator, talking


@pytest.mark.parametrize(("kind", "model", "init"), [("stt", NOVA, STT_INIT), ("tts", AURA, TTS_INIT)])
async def test_messages_keep_an_idle_connection_alive_since_pings_do_not_count(
    kind: str, model: str, init: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_KEEPALIVE_SECONDS", 0.1)
    async with (
        gateway_and_simulator(SimulatorOptions.fast(idle_s=0.5)) as (url, simulator),
        talking(url, kind, model) as talk,
    ):
        await talk.send(init)
        await talk.until("ready")
        (record,) = simulator.log.of(kind)
        await simulator.log.until(lambda log: record.types.count("keepalive") >= 8)
        assert record.open


async def test_a_client_is_read_no_faster_than_upstream_reads() -> None:
    piece, sent = bytes(65_536), 0
    async with (
        gateway_and_simulator(sidecar_send_timeout=60, sidecar_close_timeout=0.3) as (url, simulator),
        talking(url, "stt", NOVA) as talk,
    ):
        simulator.inject(do="stop_reading", kind="stt", when="audio")
        await talk.send(STT_INIT)
        await talk.until("ready")
        with contextlib.suppress(TimeoutError):
            while sent < 200_000_000:
                async with asyncio.timeout(1):
                    await talk.send(piece)
                sent += len(piece)
        # The sockets' own buffers are outside the gateway's control. The gateway itself buffers a second of audio.
        assert sent < 60_000_000
        talk.websocket.transport.abort()
        # The gateway does not read a client while it holds it back. It notices that the client left once upstream reads
        # again or is lost.
        simulator.inject(do="drop", when="now", kind="stt")
        await simulator.log.until(lambda log: not log.open)


async def test_an_upstream_that_reads_nothing_is_replaced() -> None:
    async with (
        gateway_and_simulator(sidecar_send_timeout=0.3, sidecar_close_timeout=0.3) as (url, simulator),
        talking(url, "stt", NOVA) as talk,
    ):
        fault = simulator.inject(do="stop_reading", kind="stt", when="audio")
        await talk.send(STT_INIT)
        await talk.until("ready")

        async def push() -> None:
            for _ in range(300):
                await talk.send(bytes(65_536))

        pushing = asyncio.create_task(push())
        await simulator.log.until(lambda log: len(log.of("stt")) == 2, timeout=20)
        await pushing
        assert len(fault.fired) == 1
        talk.websocket.transport.abort()


@pytest.mark.parametrize("subprotocol", [None, "slng-sidecar.v1"])
async def test_a_ready_that_repeats_the_key_is_sent_and_logged_without_it(
    subprotocol: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="slng_sidecar")  # elsewhere, telemetry silences the other loggers
    ready = {"type": "ready", "session_id": f"s {KEY}", "slng_request_id": f"r {KEY}"}
    async with (
        gateway_and_simulator() as (url, simulator),
        talking(url, "stt", NOVA, subprotocol=subprotocol) as talk,
    ):
        simulator.inject(do="send", when="init", message=ready)
        await talk.send(STT_INIT)
        ready = await talk.until("ready")
    assert (ready["session_id"], ready["slng_request_id"]) == ("s [key]", "r [key]")
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    assert "connection_ready" in [each.get("event") for each in fields]
    assert KEY not in repr(fields) + caplog.text
