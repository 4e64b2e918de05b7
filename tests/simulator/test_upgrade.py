"""From the dial to the 101, and how the clock ends connections."""

from __future__ import annotations

import asyncio
import json

import pytest
from slng_sidecar.simulator import BAD_PROVIDER_KEY, Simulator
from support.simulator_client import AURA, KEY, NOVA, dialled, fast, stt, tts
from websockets.exceptions import InvalidStatus

BYOK = {**KEY, "X-Slng-Provider-Key": "mine"}


async def _refused(
    simulator: Simulator, kind: str, model: str, headers: dict[str, str] | None = None, query: str = ""
) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refusal:
        async with dialled(simulator, kind, model, headers, query):
            pass
    return refusal.value.response.status_code, refusal.value.response.body.decode()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer bad"}, {"Authorization": "Bearer "}])
async def test_a_missing_or_bad_key_is_refused_in_slngs_words(headers: dict[str, str]) -> None:
    async with fast() as simulator:
        status, body = await _refused(simulator, "stt", NOVA, headers)
        assert (status, json.loads(body)) == (401, {"error": "Unauthorized"})
        assert simulator.log.records[0].status == 401


async def test_a_key_is_accepted_in_any_of_three_places() -> None:
    async with fast(keys=("right",)) as simulator:
        async with dialled(simulator, "stt", NOVA, {"Authorization": "Bearer right"}):
            pass
        async with dialled(simulator, "stt", NOVA, {"X-API-Key": "right"}):
            pass
        async with dialled(simulator, "stt", NOVA, {}, "?token=right"):
            pass
        assert (await _refused(simulator, "stt", NOVA, {"X-API-Key": "wrong"}))[0] == 401


async def test_byok_on_a_hosted_route_is_refused_in_slngs_words() -> None:
    async with fast() as simulator:
        status, body = await _refused(simulator, "tts", AURA, BYOK)
        assert status == 400
        assert json.loads(body) == {"error": "BYOK is only supported for external STT/TTS routes"}


async def test_byok_is_accepted_on_an_external_route() -> None:
    async with fast() as simulator, dialled(simulator, "tts", "deepgram/aura:2", BYOK) as client:
        await client.send({"type": "init"})
        await client.until("ready")


async def test_a_provider_key_that_the_provider_refuses_is_an_error_as_the_first_reply() -> None:
    headers = {**KEY, "X-Slng-Provider-Key": BAD_PROVIDER_KEY}
    async with fast() as simulator, dialled(simulator, "stt", "deepgram/nova:3", headers) as client:
        await client.send({"type": "init"})
        error = await client.until("error")
        assert error["data"] == {"code": "backend_connection_failed", "message": "upstream 401"}
        assert client.types == ["error"]


async def test_unknown_and_undeployed_models_are_refused_as_configured() -> None:
    async with fast() as simulator:
        assert (await _refused(simulator, "stt", "acme/ears:1"))[0] == 404
        assert (await _refused(simulator, "stt", "slng/deepgram/nova:3-multi"))[0] == 502
        assert (await _refused(simulator, "stt", "one-segment"))[0] == 404
    async with fast(unknown_status=502, undeployed_status=404) as simulator:
        assert (await _refused(simulator, "stt", "acme/ears:1"))[0] == 502
        assert (await _refused(simulator, "stt", "slng/deepgram/nova:3-multi"))[0] == 404
    async with fast(unknown_status=0) as simulator, stt(simulator, "acme/ears:1"):
        pass


async def test_idle_connections_count_and_one_too_many_is_refused() -> None:
    async with fast(max_connections=1) as simulator:
        async with dialled(simulator, "stt", NOVA):
            await simulator.log.until(lambda log: log.open)
            assert (await _refused(simulator, "tts", AURA))[0] == 429
        await simulator.log.until(lambda log: not log.open)
        async with tts(simulator):
            pass


async def test_one_connection_too_many_can_be_an_error_frame() -> None:
    async with (
        fast(max_connections=1, over_limit="rate_limit") as simulator,
        stt(simulator),
        dialled(simulator, "tts", AURA) as client,
    ):
        await client.send({"type": "init"})
        assert (await client.until("error"))["data"]["code"] == "rate_limit"


async def test_the_upgrade_and_ready_have_their_latency() -> None:
    async with fast(upgrade_ms=60, ready_ms=40) as simulator:
        loop = asyncio.get_running_loop()
        dialled_at = loop.time()
        async with dialled(simulator, "stt", NOVA) as client:
            open_at = loop.time()
            assert 0.06 <= open_at - dialled_at < 1
            await client.send({"type": "init"})
            await client.until("ready")
            assert 0.04 <= loop.time() - open_at < 1


@pytest.mark.parametrize(("ready", "types"), [("twice", ["ready", "ready"]), ("error", ["error"])])
async def test_ready_can_come_twice_or_be_an_error(ready: str, types: list[str]) -> None:
    async with fast(ready=ready) as simulator, dialled(simulator, "stt", NOVA) as client:
        await client.send({"type": "init"})
        for _ in types:
            await client.next()
        assert client.types == types


async def test_ready_can_be_missing_with_and_without_a_session_behind_it() -> None:
    for ready, works in (("silent", True), ("never", False)):
        async with fast(ready=ready) as simulator, dialled(simulator, "tts", AURA) as client:
            await client.send({"type": "init"}, {"type": "text", "text": "n1"}, {"type": "flush"})
            if works:
                await client.until("audio_end")
            else:
                await client.nothing_for(0.05)


async def test_types_can_be_spelt_otherwise() -> None:
    async with fast(type_case="title") as simulator, dialled(simulator, "stt", NOVA) as client:
        await client.send({"type": "init"})
        await client.until("Ready")


async def test_an_idle_connection_is_closed_without_a_message() -> None:
    async with fast(idle_s=0.5, idle_code=1011, idle_reason="reaped") as simulator, stt(simulator) as client:
        assert await client.until_closed() == (1011, "reaped")
        assert client.types == ["ready"]


async def test_pings_do_not_put_off_the_idle_close_and_keepalives_do() -> None:
    async with fast(idle_s=0.6) as simulator, stt(simulator) as pinging, stt(simulator) as living:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        closed = asyncio.create_task(pinging.until_closed())
        while not closed.done():
            await pinging.websocket.ping()
            await living.send({"type": "keepalive"})
            await asyncio.sleep(0.03)
        assert closed.result()[0] == 1008
        assert loop.time() - begun < 5
        await living.send({"type": "finalize"})
        await living.until("final_transcript")


async def test_the_longest_duration_ends_a_connection_in_the_middle_of_a_reply() -> None:
    async with fast(max_s=0.2, max_code=1012, pace=1) as simulator, tts(simulator) as client:
        await client.send({"type": "text", "text": "n1 n2 n3 n4 n5"}, {"type": "flush"})
        assert (await client.until_closed())[0] == 1012
        assert client.audio
        assert "audio_end" not in client.types


async def test_stopping_ends_what_is_open_with_1012() -> None:
    async with fast() as simulator, dialled(simulator, "stt", NOVA) as client:
        await simulator.log.until(lambda log: log.open)
        simulator.stopping.set()
        assert (await client.until_closed())[0] == 1012


async def test_what_clients_send_and_how_they_end_is_recorded() -> None:
    headers = {**KEY, "X-SLNG-Session-Id": "call-1"}
    async with fast() as simulator:
        async with dialled(simulator, "stt", NOVA, headers, "?region=eu-north-1") as client:
            await client.send({"type": "init", "config": {"language": "en"}})
            await client.until("ready")
            await client.websocket.close(4001, "bye")
        await simulator.log.until(lambda log: not log.open)
        (record,) = simulator.log.records
        assert record.headers["x-slng-session-id"] == "call-1"
        assert record.query == {"region": "eu-north-1"}
        init = record.last_received("init")
        assert init is not None
        assert init["config"] == {"language": "en"}
        assert (record.ended, record.close_code, record.close_reason) == ("client", 4001, "bye")
        assert record.as_dict()["headers"]["authorization"] == "***"
