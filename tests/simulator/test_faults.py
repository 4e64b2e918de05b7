from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
from slng_sidecar.engines import signal
from slng_sidecar.simulator import (
    BadFault,
    BadProfile,
    SimulatorOptions,
    create_simulator,
    parse_script,
    running_simulator,
)
from slng_sidecar.simulator.faults import parse_fault
from support.simulator_client import AURA, CLEAR, FINALIZE, FLUSH, NOVA, Client, dialled, fast, stt, text, tts
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

LONG = " ".join(f"n{number}" for number in range(1, 12))


async def test_a_drop_in_the_middle_of_audio_shows_no_close_frame() -> None:
    async with fast() as simulator, tts(simulator) as client:
        fault = simulator.inject(do="drop", kind="tts", when="audio", after_ms=500)
        await client.send(text(LONG), FLUSH)
        assert (await client.until_closed())[0] == 1006
        assert len(client.audio) <= 16_640
        record = await simulator.until_fired(fault)
        assert record.audio_out == 16_640
        assert record.ended == "fault: drop"


async def test_received_audio_can_be_interrupted_by_a_drop() -> None:
    async with fast() as simulator, stt(simulator) as client:
        fault = simulator.inject(do="drop", kind="stt", when="audio", after_ms=100)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(100):
                await client.send(bytes(640))
                await asyncio.sleep(0)
        assert (await client.until_closed())[0] == 1006
        assert (await simulator.until_fired(fault)).audio_in >= 3200


@pytest.mark.parametrize(
    "moment", ["accepted", "init", "ready", "text", "flush", "clear", "keepalive", "terminal", "cleared"]
)
async def test_a_tts_connection_can_be_closed_at_any_moment(moment: str) -> None:
    async with fast() as simulator:
        simulator.inject(do="close", when=moment, code=4000, reason=moment)
        async with dialled(simulator, "tts", AURA) as client:
            with contextlib.suppress(ConnectionClosed):
                await client.send({"type": "init"}, text("n1"), FLUSH, {"type": "keepalive"})
                if moment in ("clear", "cleared"):
                    await client.send(CLEAR)
            assert await client.until_closed() == (4000, moment)


@pytest.mark.parametrize("moment", ["finalize", "partial", "final", "close"])
async def test_an_stt_connection_can_be_closed_at_any_moment(moment: str) -> None:
    async with fast() as simulator, stt(simulator, enable_partials=True) as client:
        simulator.inject(do="close", when=moment, code=1011)
        with contextlib.suppress(ConnectionClosed):
            await client.send(signal.encode([1, 2, 3]), bytes(640), FINALIZE, {"type": "close"})
        assert (await client.until_closed())[0] == 1011


@pytest.mark.parametrize("status", [200, 401, 429, 502, 503])
async def test_an_upgrade_can_be_refused_with_a_body(status: int) -> None:
    async with fast() as simulator:
        simulator.inject(do="refuse", status=status, body={"error": "no"}, headers={"retry-after": "1"})
        with pytest.raises(InvalidStatus) as refusal:
            async with dialled(simulator, "stt", NOVA):
                pass
        assert refusal.value.response.status_code == status
        assert refusal.value.response.headers["retry-after"] == "1"
        assert refusal.value.response.body == b'{"error":"no"}'
        async with stt(simulator):  # it occurred once, as requested
            pass


async def test_an_upgrade_can_be_refused_late() -> None:
    async with fast() as simulator:
        fault = simulator.inject(do="refuse", delay_ms=80)
        loop = asyncio.get_running_loop()
        dialled_at = loop.time()
        with pytest.raises(InvalidStatus):
            async with stt(simulator):
                pass
        assert loop.time() - dialled_at >= 0.08
        assert (await simulator.until_fired(fault)).faults == ["refuse"]


async def test_an_upgrade_can_be_answered_by_a_page() -> None:
    async with fast() as simulator:
        simulator.inject(do="refuse", status=200, body="<html>", content_type="text/html")
        with pytest.raises(InvalidStatus) as refusal:
            async with dialled(simulator, "stt", NOVA):
                pass
        assert refusal.value.response.headers["content-type"].startswith("text/html")


async def test_an_upgrade_can_hang() -> None:
    async with fast() as simulator:
        fault = simulator.inject(do="hang")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), dialled(simulator, "stt", NOVA):
                pass
        record = await simulator.until_fired(fault)
        await simulator.log.until(lambda log: record.ended)
        assert record.status is None


async def test_the_simulator_stops_while_an_upgrade_hangs() -> None:
    async with fast() as simulator:
        fault = simulator.inject(do="hang")

        async def dial() -> None:
            with contextlib.suppress(InvalidHandshake, OSError):
                async with dialled(simulator, "stt", NOVA):
                    pass

        dialling = asyncio.create_task(dial())
        await simulator.until_fired(fault)
    await dialling


async def test_an_upgrade_can_be_dropped() -> None:
    async with fast() as simulator:
        simulator.inject(do="drop", when="upgrade")
        with pytest.raises((InvalidMessage, OSError)):
            async with dialled(simulator, "stt", NOVA):
                pass


async def test_an_upgraded_connection_can_stay_silent() -> None:
    async with fast() as simulator:
        simulator.inject(do="mute", when="accepted")
        async with dialled(simulator, "stt", NOVA) as client:
            await client.send({"type": "init"})
            await client.nothing_for(0.05)


async def test_a_simulator_that_stops_reading_makes_the_client_wait() -> None:
    async def talk(client: Client) -> None:
        # Several messages reach the server in one piece, and those after the first are not read either.
        await client.send(*[bytes(640)] * 20)
        while True:
            await client.send(bytes(64_000))

    async with fast() as simulator, stt(simulator) as client:
        fault = simulator.inject(do="stop_reading", when="audio")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(talk(client), 0.3)
        record = await simulator.until_fired(fault)
        assert record.audio_in == 640
        client.websocket.transport.abort()


async def test_a_stall_holds_back_what_is_sent() -> None:
    async with fast() as simulator, tts(simulator) as client:
        simulator.inject(do="stall", when="audio", after_ms=100, ms=150)
        loop = asyncio.get_running_loop()
        sent = loop.time()
        await client.send(text("n1"), FLUSH)
        await client.next()
        assert loop.time() - sent < 0.1
        await client.until("audio_end")
        assert loop.time() - sent >= 0.15


async def test_a_message_can_be_larger_than_clients_accept() -> None:
    async with fast() as simulator, tts(simulator) as client:
        simulator.inject(do="oversized", when="text", bytes=2 << 20)
        simulator.inject(do="oversized", when="flush", bytes=2 << 20, binary=False)
        await client.send(text("n1"))
        assert len(await client.next_audio()) == 2 << 20
        await client.send(FLUSH)
        assert len((await client.until("padding"))["padding"]) == 2 << 20


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("data", {"type": "error", "data": {"code": "rate_limit", "message": "slow"}}),
        ("top", {"type": "error", "code": "rate_limit", "message": "slow"}),
        ("status_int", {"type": "error", "status_code": 429, "message": "slow"}),
        ("status_str", {"type": "error", "data": {"code": "429", "message": "slow"}}),
        ("message", {"type": "error", "message": "slow"}),
        ("capitalised", {"type": "Error", "description": "slow"}),
        ("typeless", {"error": "slow"}),
        ("data_text", {"type": "error", "data": "slow", "code": "rate_limit", "message": "slow"}),
    ],
)
async def test_errors_come_in_every_shape_and_leave_the_connection_open(shape: str, message: dict[str, Any]) -> None:
    async with fast() as simulator, tts(simulator) as client:
        simulator.inject(do="error", when="keepalive", code="rate_limit", message="slow", shape=shape)
        await client.send({"type": "keepalive"})
        assert await client.next() == message
        await client.send(text("n1"), FLUSH)
        await client.until("audio_end")


async def test_an_error_can_be_followed_by_a_close() -> None:
    async with fast() as simulator, stt(simulator) as client:
        simulator.inject(do="error", when="finalize", then_close=1011)
        await client.send(FINALIZE)
        assert (await client.until_closed())[0] == 1011
        assert client.types == ["ready", "error"]


async def test_any_message_can_be_sent() -> None:
    async with fast() as simulator, tts(simulator) as client:
        simulator.inject(do="send", when="text", message={"type": "Warning", "text": "é"})
        simulator.inject(do="send", when="text", message="not json")
        simulator.inject(do="send", when="flush", base64="AAEC")
        await client.send(text("n1"))
        assert await client.next() == {"type": "Warning", "text": "é"}
        with pytest.raises(ValueError, match="Expecting value"):
            await client.next()
        await client.send(FLUSH)
        while not client.audio.endswith(b"\x00\x01\x02"):
            await client.next()


async def test_a_fault_can_change_the_profile_of_one_connection() -> None:
    async with fast() as simulator:
        simulator.inject(do="profile", set={"terminal": "flushed"}, kind="tts", connection=2)
        for terminal in ("audio_end", "flushed", "audio_end"):
            async with tts(simulator) as client:
                await client.send(text("n1"), FLUSH)
                await client.until(terminal)


async def test_a_fault_can_change_the_profile_of_an_open_connection() -> None:
    async with fast() as simulator, tts(simulator) as client:
        simulator.inject(do="profile", set={"idle_s": 0.05}, when="now")
        assert (await client.until_closed())[0] == 1008


async def test_a_fault_counts_the_connections_that_it_concerns() -> None:
    async with fast() as simulator:
        fault = simulator.inject(do="refuse", kind="stt", model="slng/deepgram/*", connection=2)
        async with stt(simulator), tts(simulator), stt(simulator, "deepgram/nova:3"):
            pass
        with pytest.raises(InvalidStatus):
            async with stt(simulator):
                pass
        assert fault.fired == [4]


async def test_a_fault_occurs_as_often_as_requested() -> None:
    async with fast() as simulator:
        simulator.inject(do="refuse", times=2)
        forever = simulator.inject(do="profile", times=0, set={"terminal": "done"})
        for _ in range(2):
            with pytest.raises(InvalidStatus):
                async with stt(simulator):
                    pass
        async with tts(simulator) as client:
            await client.send(text("n1"), FLUSH)
            await client.until("done")
        assert len(forever.fired) == 3


async def test_a_fault_can_wait_for_the_second_such_moment_of_a_connection() -> None:
    async with fast() as simulator, stt(simulator) as client:
        simulator.inject(do="close", when="finalize", occurrence=2)
        await client.send(FINALIZE)
        await client.until("final_transcript")
        await client.send(FINALIZE)
        assert (await client.until_closed())[0] == 1011


async def test_a_fault_can_occur_in_the_second_turn() -> None:
    async with fast() as simulator, tts(simulator) as client:
        simulator.inject(do="drop", when="audio", occurrence=2, after_ms=40)
        await client.send(text("n1"), FLUSH)
        await client.until("audio_end")
        await client.send(text("n2"), FLUSH)
        assert (await client.until_closed())[0] == 1006


async def test_a_fault_of_the_audio_happens_once_in_each_turn() -> None:
    async with fast() as simulator, tts(simulator) as client:
        simulator.inject(do="error", when="audio", after_ms=80, times=0)
        for _ in range(2):
            await client.send(text(LONG), FLUSH)
            await client.until("audio_end")
        assert client.types == ["ready", "error", "audio_end", "error", "audio_end"]


async def test_a_fault_can_occur_some_time_after_its_moment() -> None:
    async with fast() as simulator, stt(simulator) as client:
        simulator.inject(do="close", when="finalize", delay_ms=80)
        loop = asyncio.get_running_loop()
        sent = loop.time()
        await client.send(FINALIZE)
        await client.until("final_transcript")
        await client.until_closed()
        assert 0.075 < loop.time() - sent < 1


async def test_an_immediate_fault_hits_the_newest_connection() -> None:
    async with fast() as simulator, stt(simulator) as older, stt(simulator) as newer:
        fault = simulator.inject(do="close", when="now", kind="stt", code=1012)
        assert (await newer.until_closed())[0] == 1012
        assert fault.fired == [2]
        await older.send(FINALIZE)
        await older.until("final_transcript")


async def test_a_script_is_in_effect_from_the_start() -> None:
    options = SimulatorOptions.fast(faults=({"do": "refuse", "status": 500},))
    async with running_simulator(options) as simulator:
        with pytest.raises(InvalidStatus):
            async with stt(simulator):
                pass


@pytest.mark.parametrize(
    ("fault", "message_part"),
    [
        ({"do": "explode"}, "no fault 'explode'.*drop"),
        ({"do": "drop", "when": "audio", "loud": 1}, "no field 'loud'.*after_ms"),
        ({"do": "drop", "when": "lunch"}, "'when'.*finalize"),
        ({"do": "drop"}, "needs 'when'"),
        ({"do": "refuse", "status": 99}, "'status'.*200 to 599"),
        ({"do": "refuse", "when": "text"}, "only at the upgrade"),
        ({"do": "close", "when": "upgrade"}, "cannot happen at the upgrade"),
        ({"do": "close", "when": "text", "code": 1006}, "'code'"),
        ({"do": "close", "when": "text", "reason": "é" * 62}, "123 bytes"),
        ({"do": "profile", "set": {"mood": 1}}, "no field 'mood'.*terminal"),
        ({"do": "profile", "set": {"terminal": "bang"}}, "terminal takes one of.*flushed"),
        ({"do": "send", "when": "text"}, "either 'message' or 'base64'"),
        ({"do": "drop", "when": "text", "after_ms": 5}, "when: audio"),
        ({"do": "drop", "when": "audio", "times": True}, "'times'"),
        ({"do": "refuse", "when": "request"}, "belong together"),
        ("drop", "an object"),
    ],
)
def test_an_unknown_fault_is_refused_with_the_names_that_exist(fault: object, message_part: str) -> None:
    with pytest.raises(BadFault, match=message_part):
        parse_script([fault])


def test_profile_fields_that_do_not_exist_are_refused() -> None:
    options = SimulatorOptions.fast(mood=1)
    with pytest.raises(BadProfile, match="no field 'mood'"):
        create_simulator(options)


async def test_faults_are_set_read_and_removed_over_http() -> None:
    async with fast() as simulator, httpx.AsyncClient(base_url=simulator.http_url) as http:
        fault = {"do": "drop", "kind": "tts", "when": "audio", "after_ms": 500}
        added = (await http.post("/_sim/faults", json={"faults": [fault]})).json()["faults"]
        assert added == [{**fault, "id": 1, "times": 1, "fired": []}]
        assert (await http.get("/_sim/faults")).json()["faults"] == added
        assert (await http.delete("/_sim/faults/1")).status_code == 204
        assert (await http.delete("/_sim/faults/1")).status_code == 404
        await http.post("/_sim/faults", json=fault)
        assert (await http.delete("/_sim/faults")).status_code == 204
        assert (await http.get("/_sim/faults")).json() == {"faults": []}


async def test_a_bad_script_over_http_is_refused_as_a_whole() -> None:
    async with fast() as simulator, httpx.AsyncClient(base_url=simulator.http_url) as http:
        script = [{"do": "refuse"}, {"do": "explode"}]
        refused = await http.post("/_sim/faults", json=script)
        assert refused.status_code == 400
        assert "explode" in refused.json()["error"]
        assert list(simulator.faults) == []
        assert (await http.post("/_sim/faults", content="{")).status_code == 400


async def test_the_log_is_read_and_cleared_over_http() -> None:
    async with fast() as simulator, httpx.AsyncClient(base_url=simulator.http_url) as http:
        async with stt(simulator) as client:
            await client.send(FINALIZE)
            await client.until("final_transcript")
        await simulator.log.until(lambda log: not log.open)
        log = (await http.get("/_sim/log")).json()
        assert (log["dials"], log["open"]) == (1, 0)
        (record,) = log["records"]
        assert [message["type"] for message in record["received"]] == ["init", "finalize"]
        assert [message["type"] for message in record["sent"]] == ["ready", "final_transcript"]
        assert "key" not in str(record["headers"]["authorization"])
        await http.delete("/_sim/log")
        assert (await http.get("/_sim/log")).json()["records"] == []


def test_the_older_name_of_the_profile_fault_is_accepted() -> None:
    old, new = ({"do": name, "set": {"terminal": "flushed"}} for name in ("manners", "profile"))
    assert parse_fault(old, 1).do == parse_fault(new, 1).do == "profile"
