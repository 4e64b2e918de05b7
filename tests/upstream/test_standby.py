"""Standby connections: opened before they are needed, used by one session only, and closed when nobody needs them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from slng_sidecar.engines import signal
from slng_sidecar.protocol.tts.session import TtsMachine
from slng_sidecar.simulator import Simulator, SimulatorOptions
from slng_sidecar.upstream import standby
from support.numbered_signal import whole_words
from support.running import AURA, NOVA, STT_INIT, TTS_INIT, Talk, gateway_and_simulator, talking

SLOW: dict[str, Any] = {"upgrade_ms": 300, "ready_ms": 300}
EXTENDED = "slng-sidecar.v1"
SESSION = {"X-SLNG-Session-Id": "call-1"}


@contextlib.asynccontextmanager
async def both(standby: int = 1, slng_http_tts: str = "auto", **profile: Any) -> AsyncIterator[tuple[str, Simulator]]:
    options = SimulatorOptions.fast(**{**SLOW, **profile})
    async with gateway_and_simulator(options, sidecar_standby=standby, slng_http_tts=slng_http_tts) as found:
        yield found


async def status(url: str) -> dict[str, int]:
    async with httpx.AsyncClient(trust_env=False) as client:
        found: dict[str, int] = (await client.get(f"{url}/v1/status")).json()["standby"]
        return found


async def until_ready(url: str, count: int) -> None:
    async with asyncio.timeout(5):
        while (await status(url))["ready"] < count:
            await asyncio.sleep(0.02)


async def until_none(url: str, what: str) -> None:
    async with asyncio.timeout(5):
        while (await status(url))[what]:
            await asyncio.sleep(0.02)


async def metric(url: str, series: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{url}/metrics")).text
    return next((float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(series)), 0.0)


async def ready_ms(talk: Talk, init: dict[str, Any]) -> float:
    start = time.monotonic()
    await talk.send(init)
    await talk.until("ready")
    return 1000 * (time.monotonic() - start)


async def speak(talk: Talk, context_id: str, text: str) -> None:
    await talk.send(
        {"type": "text", "context_id": context_id, "text": text}, {"type": "flush", "context_id": context_id}
    )


async def test_the_next_session_of_a_shape_gets_a_ready_connection() -> None:
    async with both() as (url, simulator):
        async with talking(url, "stt", NOVA) as first:
            cold = await ready_ms(first, STT_INIT)
            await until_ready(url, 3)  # this shape and the two configured ones
            async with talking(url, "stt", NOVA) as second:
                warm = await ready_ms(second, STT_INIT)
        assert cold >= 600
        assert warm < cold / 10
        assert await metric(url, 'slng_sidecar_standby_needs_total{kind="stt",spare="ready"}') == 1
        assert await metric(url, 'slng_sidecar_standby_needs_total{kind="stt",spare="new_shape"}') == 1
        assert len({record.id for record in simulator.log.of("stt")}) == len(simulator.log.of("stt"))


async def test_the_messages_of_a_standby_connection_belong_to_its_session() -> None:
    async with both(upgrade_ms=20, ready_ms=20) as (url, _):
        for number in (1, 10, 20):
            async with talking(url, "tts", AURA) as talk:
                await talk.send(TTS_INIT, {"type": "text", "text": f"n{number} n{number + 1}"}, {"type": "flush"})
                await talk.until("audio_end")
                assert whole_words(talk.audio) == [number, number + 1]
            await until_ready(url, 3)


async def test_a_session_waits_for_a_standby_connection_that_is_still_opening() -> None:
    async with (
        both() as (url, simulator),
        talking(url, "stt", NOVA) as first,
        talking(url, "stt", NOVA) as second,
    ):
        await ready_ms(first, STT_INIT)
        await simulator.log.until(
            lambda log: len(log.of("stt", NOVA)) == 3
        )  # the configured one, that of ``first``, and its standby connection
        await ready_ms(second, STT_INIT)
        assert await metric(url, 'slng_sidecar_standby_needs_total{kind="stt",spare="opening"}') == 1
        # A standby connection for the next session, and no other dial.
        await simulator.log.until(lambda log: len(log.of("stt", NOVA)) == 4)
        await until_ready(url, 3)
        assert len(simulator.log.of("stt", NOVA)) == 4


async def test_the_configured_shapes_are_there_from_the_start() -> None:
    async with both() as (url, _):
        await until_ready(url, 2)
        init = {"type": "init", "config": {"sample_rate": 24_000, "encoding": "linear16", "language": "en"}}
        async with talking(url, "tts", AURA, subprotocol=EXTENDED) as talk:
            assert await ready_ms(talk, init) < 300


async def test_the_next_context_after_an_interruption_does_not_wait_for_the_clear() -> None:
    firsts: dict[int, float] = {}
    for count in (0, 1):
        async with (
            both(count, pace=4, clear_ms=400, first_audio_ms=50) as (url, _),
            talking(url, "tts", AURA, subprotocol=EXTENDED) as talk,
        ):
            await talk.send(TTS_INIT)
            await speak(talk, "a", " ".join(f"n{number}" for number in range(1, 60)))
            await talk.until("audio_start")
            if count:
                await until_ready(url, 3)
            await talk.send({"type": "clear", "context_id": "a"})
            await talk.until("cleared")
            talk.audio.clear()
            await speak(talk, "b", "n100 n101")
            end = await talk.until("audio_end")
            assert whole_words(talk.audio) == [100, 101]
            firsts[count] = end["first_audio_ms"]
            await speak(talk, "c", "n110")
            await talk.until("audio_end")
            assert whole_words(talk.audio) == [100, 101, 110]
    assert firsts[0] >= 400
    assert firsts[1] < firsts[0] / 3


async def test_a_drop_under_audio_is_repaired_by_a_standby_connection() -> None:
    async with both() as (url, simulator):
        async with talking(url, "stt", NOVA, subprotocol=EXTENDED) as talk:
            await ready_ms(talk, STT_INIT)
            await until_ready(url, 3)
            await talk.send(signal.encode([signal.SignalWord(number) for number in range(1, 9)]))
            simulator.inject(do="drop", when="audio", model=NOVA, kind="stt")
            await talk.send(signal.encode([signal.SignalWord(number) for number in range(9, 12)]))
            back = await talk.until("status")
            while back["state"] != "connected":
                back = await talk.until("status")
            assert back["gap_ms"] < 300
            await talk.send({"type": "finalize", "id": "f"})
            await talk.until("finalized")
        assert " ".join(talk.finals()).split() == [f"n{number}" for number in range(1, 12)]


async def test_a_session_with_a_session_id_uses_only_its_own_standby_connections() -> None:
    async with both(upgrade_ms=20, ready_ms=20) as (url, simulator):
        async with talking(url, "tts", AURA) as other:
            await ready_ms(other, TTS_INIT)
        await until_ready(url, 3)
        async with talking(url, "tts", AURA, headers=SESSION, subprotocol=EXTENDED) as talk:
            await ready_ms(talk, TTS_INIT)
            assert await metric(url, 'slng_sidecar_standby_needs_total{kind="tts",spare="new_shape"}') == 2
            await simulator.log.until(
                lambda log: len([r for r in log.open if r.headers.get("x-slng-session-id") == "call-1"]) == 2
            )
        # Its standby connection is closed with it.
        await simulator.log.until(lambda log: not [r for r in log.open if r.headers.get("x-slng-session-id")])


async def test_a_session_can_ask_for_a_standby_connection_of_its_own() -> None:
    async with both(0, upgrade_ms=20, ready_ms=20) as (url, simulator):
        async with talking(url, "tts", AURA, subprotocol=EXTENDED) as talk:
            await ready_ms(talk, {**TTS_INIT, "standby": True})
            await until_ready(url, 1)
            assert "standby" not in simulator.log.of("tts")[0].received[0][1]
        await simulator.log.until(lambda log: not log.open)
        assert await status(url) == {"shapes": 0, "ready": 0, "opening": 0}


async def test_no_standby_connections_are_opened_unless_configured() -> None:
    async with both(0, upgrade_ms=0, ready_ms=0) as (url, simulator):
        async with talking(url, "tts", AURA) as talk:
            await ready_ms(talk, TTS_INIT)
            await talk.send({"type": "text", "text": "n1"}, {"type": "flush"})
            await talk.until("audio_end")
        assert simulator.log.dials == 1


async def test_changed_settings_release_the_standby_connection_of_the_old_ones() -> None:
    async with (
        both(0, upgrade_ms=20, ready_ms=20) as (url, simulator),
        talking(url, "tts", AURA, subprotocol=EXTENDED) as talk,
    ):
        await ready_ms(talk, {**TTS_INIT, "voice": "one", "standby": True})
        await until_ready(url, 1)
        await talk.send({"type": "update", "voice": "two"})
        await talk.until("updated")
        await speak(talk, "a", "n1")
        await talk.until("audio_end")
        await simulator.log.until(lambda log: len(log.open) == 2 and all(record.received for record in log.open))
        assert {record.received[0][1]["voice"] for record in simulator.log.open} == {"two"}


async def test_a_standby_connection_that_is_lost_or_sends_messages_is_never_handed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standby, "PAUSE", 60.0)
    async with both(upgrade_ms=20, ready_ms=20) as (url, simulator):
        await until_ready(url, 2)
        simulator.inject(do="drop", when="now", times=0)
        await until_none(url, "ready")
        async with talking(url, "tts", AURA) as talk:
            await talk.send(TTS_INIT, {"type": "text", "text": "n1 n2"}, {"type": "flush"})
            await talk.until("audio_end")
            assert whole_words(talk.audio) == [1, 2]


async def test_old_and_unused_standby_connections_are_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_TIDY_EVERY", 0.05)
    async with both(upgrade_ms=20, ready_ms=20) as (url, simulator):
        await until_ready(url, 2)
        monkeypatch.setattr(standby, "MAX_AGE", 0.1)
        dials = simulator.log.dials
        await simulator.log.until(lambda log: log.dials >= dials + 2)  # it is replaced
        monkeypatch.setattr(standby, "UNUSED", 0.1)
        await until_none(url, "shapes")
        await simulator.log.until(lambda log: not log.open)


async def test_the_age_of_a_standby_connection_counts_for_the_session_that_takes_it() -> None:
    options = SimulatorOptions.fast()
    async with gateway_and_simulator(options, sidecar_standby=1, sidecar_session_rotate=4.0) as (url, simulator):
        await until_ready(url, 2)
        opened = time.monotonic()
        await asyncio.sleep(2.0)  # it ages
        async with talking(url, "stt", NOVA, subprotocol=EXTENDED) as talk:
            await ready_ms(talk, STT_INIT)
            [first] = [record for record in simulator.log.of("stt", NOVA) if record.audio or record.open][:1]
            while first.open:
                await talk.send(bytes(640))
                await asyncio.sleep(0.02)
            # Counted from the moment at which the session took it, the time would be 6 s.
            assert time.monotonic() - opened < 5.5


@pytest.mark.logs_errors
async def test_a_fault_in_a_session_on_a_standby_connection_ends_that_session_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with both(upgrade_ms=20, ready_ms=20) as (url, _), talking(url, "tts", AURA) as other:
        await until_ready(url, 2)
        await other.send(TTS_INIT, {"type": "text", "text": "n1"}, {"type": "flush"})
        await other.until("audio_end")
        await until_ready(url, 3)
        with monkeypatch.context() as broken:
            broken.setattr(TtsMachine, "upstream_binary", lambda *_: 1 / 0)
            async with talking(url, "tts", AURA) as talk:
                await talk.send(TTS_INIT, {"type": "text", "text": "n1"}, {"type": "flush"})
                code, reason = await talk.until_closed()
                assert (code, reason.partition(":")[0]) == (1011, "internal_error")
        await other.send({"type": "text", "text": "n2 n3"}, {"type": "flush"})
        await other.until("audio_end")
        assert whole_words(other.audio) == [1, 2, 3]
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"{url}/v1/audio/speech", json={"input": "n4"})).status_code == 200
        await until_ready(url, 3)


async def test_a_standby_connection_that_is_refused_is_counted_shown_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    options = SimulatorOptions.fast(keys=("another",))
    async with (
        gateway_and_simulator(options, sidecar_standby=1) as (url, _),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        async with asyncio.timeout(5):
            while len(errors := (await client.get(f"{url}/v1/status")).json()["errors"]) < 2:
                await asyncio.sleep(0.02)
        assert {(error["session"], error["kind"], error["code"]) for error in errors} == {
            (None, "stt", "auth_error"), (None, "tts", "auth_error"),
        }  # fmt: skip
        assert await metric(url, 'slng_sidecar_upstream_dial_failures_total{code="auth_error",kind="tts"}') == 1
        fields = [getattr(record, "fields", {}) for record in caplog.records]
        assert [each["code"] for each in fields if each.get("event") == "spare_lost"] == ["auth_error"] * 2
        async with talking(url, "stt", NOVA) as talk:
            await talk.send(STT_INIT)
            assert (await talk.until("error"))["code"] == "auth_error"


async def test_http_speech_uses_standby_connections_and_the_wait_is_not_overhead() -> None:
    timings: list[dict[str, float]] = []
    async with both(slng_http_tts="websocket") as (url, simulator), httpx.AsyncClient(trust_env=False) as client:
        await until_ready(url, 2)
        for _ in range(3):  # no connection of its shape, one that is opening, one that is ready
            if len(timings) == 2:
                await until_ready(url, 3)
            reply = await client.post(f"{url}/v1/audio/speech", json={"input": "n1 n2", "response_format": "pcm"})
            assert [word.number for word in signal.decode(reply.content, 24_000)] == [1, 2]
            spans = (span.split(";dur=") for span in reply.headers["server-timing"].split(", "))
            timings.append({name: float(value) for name, value in spans})
        assert (
            len(simulator.log.of("tts", AURA)) == 5
        )  # the configured one, and for each request its own connection or its standby connection
    cold, opening, warm = timings
    assert cold["dial"] + cold["ready"] >= 600
    assert opening["overhead"] < opening["ready"] / 2
    assert warm.keys() & {"dial", "ready"} == set()
    assert warm["overhead"] < cold["ready"] / 2


async def test_standby_connections_end_with_the_sidecar() -> None:
    async with both(2, upgrade_ms=20, ready_ms=20) as (url, simulator):
        await until_ready(url, 4)
        opened = simulator.log.records
    assert all(not record.open for record in opened)
