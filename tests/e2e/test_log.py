"""The log of a call in JSON: one line for each change of state, with the fields that identify the call."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
from slng_sidecar.engines import signal
from support.bots import SIGNAL, simulator_process
from support.processes import Running, serving
from support.running import STT_INIT, TTS_INIT, talking

CALL = {"X-SLNG-Session-Id": "call-7", "X-SLNG-Agent-Id": "agent-1"}
PCM = signal.encode([signal.SignalWord(number) for number in range(1, 9)])


def events(sidecar: Running, **fields: Any) -> list[dict[str, Any]]:
    """Return the log lines that have an event and the given fields."""
    lines = [json.loads(line) for line in sidecar.err.splitlines() if line.startswith("{")]
    return [line for line in lines if "event" in line and fields.items() <= line.items()]


async def test_a_call_with_a_drop_logs_each_change_of_state_once() -> None:
    async with (
        simulator_process(first_audio_ms=20) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url, SIDECAR_LOG_FORMAT="json") as sidecar,
    ):
        async with talking(sidecar.url, "stt", SIGNAL, headers=CALL, subprotocol="slng-sidecar.v1") as talk:
            await talk.send(STT_INIT, PCM, {"type": "finalize", "id": "f"})
            await talk.until("finalized")
            await simulator.inject(do="drop", when="audio", kind="stt")
            await simulator.inject(do="refuse", status=503, kind="stt")
            await talk.send(PCM)
            while (await talk.until("status"))["state"] != "connected":
                pass
            await talk.send({"type": "close"})
            await talk.until_closed()
        await sidecar.says("session_ended")
        found = events(sidecar)
        assert [(line["event"], line.get("connection"), line.get("code")) for line in found] == [
            ("session_began", None, None),
            ("connection_ready", 0, None),
            ("connection_lost", 0, "upstream_closed"),
            ("connection_not_opened", 1, "not_ready"),
            ("connection_ready", 2, None),
            ("session_ended", None, None),
        ]
        known = {"session": 1, "kind": "stt", "model": SIGNAL, "session_id": "call-7", "agent_id": "agent-1"}
        assert all(known.items() <= line.items() for line in found)
        # The upstream session id is that of the connection that the line is about.
        _, first, lost, refused, second, end = found
        assert first["request_id"] == lost["request_id"] != second["request_id"]
        assert "request_id" not in refused
        assert (end["outcome"], end["dials"], end["counts"]["reconnects"]) == ("closed", 3, 1)
        assert end["counts"]["replayed_ms"] > 0
        assert max(Counter(line["message"] for line in found).values()) == 1


async def test_requests_over_http_and_refusals_are_logged_too() -> None:
    async with (
        simulator_process(first_audio_ms=20) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url, SIDECAR_LOG_FORMAT="json") as sidecar,
        httpx.AsyncClient(trust_env=False, base_url=sidecar.url, headers=CALL) as client,
    ):
        speech = f"/v1/bridges/unmute/tts/{SIGNAL}"
        assert (await client.post(speech, json={"text": "n1"})).status_code == 200
        await simulator.inject(do="refuse", status=400, kind="http", body={"error": "n424242"})
        assert (await client.post(speech, json={"text": "n1"})).status_code == 400
        assert (await client.get("/v1/status", headers={"Origin": "https://evil.example"})).status_code == 403
        await sidecar.says('"refused"')
        assert [(line["event"], line.get("outcome", line.get("code"))) for line in events(sidecar)] == [
            ("session_began", None),
            ("session_ended", "closed"),
            ("session_began", None),
            ("session_ended", "failed"),
            ("request_failed", "config_error"),
            ("refused", "forbidden_origin"),
        ]
        assert all(line["session_id"] == "call-7" for line in events(sidecar, kind="tts"))
        [refused] = events(sidecar, event="refused")
        assert refused["client"] == "127.0.0.1"


async def test_the_text_of_a_websocket_turn_is_not_logged() -> None:
    async with (
        simulator_process(first_audio_ms=20) as simulator,
        serving(
            "--log-level", "debug", SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url, SIDECAR_LOG_FORMAT="json"
        ) as sidecar,
    ):
        async with talking(sidecar.url, "tts", SIGNAL, headers=CALL) as talk:
            await talk.send(TTS_INIT, {"type": "text", "text": "n424242"}, {"type": "flush"})
            await talk.until("audio_end")
        await sidecar.says("session_ended")
        assert "424242" not in sidecar.err
