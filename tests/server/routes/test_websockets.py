"""The plain dialect over real sockets: local client, gateway, simulator."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from slng_sidecar.simulator import SimulatorOptions
from support.numbered_signal import speech, whole_words, words
from support.running import AURA, KEY, NOVA, STT_INIT, TTS_INIT, Talk, gateway_and_simulator, running_gateway, talking
from websockets.exceptions import InvalidStatus

SIGNAL_STT = "slng/simulator/signal:1"


def spoken(count: int, first: int = 1) -> bytes:
    return speech(range(first, first + count), pause_every=5)


def transcribed(talk: Talk) -> list[str]:
    return " ".join(talk.finals()).split()


async def test_speech_goes_up_and_words_come_down() -> None:
    async with gateway_and_simulator() as (url, _), talking(url, "stt", NOVA) as talk:
        await talk.send(STT_INIT)
        ready = await talk.until("ready")
        assert ready["session_id"]
        await talk.send(spoken(12), {"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert transcribed(talk) == words(1, 12)


async def test_audio_sent_before_upstream_is_ready_is_held_and_sent_in_order() -> None:
    options = SimulatorOptions.fast(upgrade_ms=150, ready_ms=150)
    async with gateway_and_simulator(options) as (url, simulator), talking(url, "stt", NOVA) as talk:
        audio = spoken(20)
        await talk.send(STT_INIT)
        for start in range(0, len(audio), 640):
            await talk.send(audio[start : start + 640])
        await talk.send({"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert transcribed(talk) == words(1, 20)
        assert bytes(simulator.log.of("stt")[0].audio) == audio


async def test_the_upgrade_upstream_has_the_sidecar_s_key_and_never_the_client_s() -> None:
    headers = {
        "Authorization": "Bearer of-the-client",
        "X-SLNG-Agent-Id": " agent-7 ",
        "X-SLNG-Session-Id": "call-9",
        "X-Slng-Provider-Key": "of-the-provider",
    }
    async with gateway_and_simulator() as (url, simulator), talking(url, "stt", "deepgram/nova:3", headers) as talk:
        await talk.send(STT_INIT)
        await talk.until("ready")
        sent = simulator.log.of("stt")[0].headers
        assert sent["authorization"] == f"Bearer {KEY}"
        assert sent["x-slng-provider-key"] == "of-the-provider"
        assert (sent["x-slng-agent-id"], sent["x-slng-session-id"]) == ("agent-7", "call-9")
        assert "of-the-client" not in str(sent)
        assert "sec-websocket-extensions" not in sent


async def test_the_operator_s_provider_key_goes_to_external_routes_only() -> None:
    async with gateway_and_simulator(slng_provider_key="wide", slng_tts_provider_key="narrow") as (url, simulator):
        for kind, model, init in (
            ("stt", "deepgram/nova:3", STT_INIT),
            ("tts", "deepgram/aura:2", TTS_INIT),
            ("tts", AURA, TTS_INIT),
        ):
            async with talking(url, kind, model) as talk:
                await talk.send(init)
                await talk.until("ready")
        keys = [record.headers.get("x-slng-provider-key") for record in simulator.log.records]
        assert keys == ["wide", "narrow", None]


@pytest.mark.parametrize("own_key", ["k" * 20, None])
async def test_the_sidecar_s_token_never_goes_upstream(own_key: str | None) -> None:
    token: dict[str, Any] = {
        "sidecar_token": "the-token-of-this-sidecar",
        "slng_key_passthrough": True,
        "slng_api_key": own_key,
    }
    bearer = {"Authorization": "Bearer the-token-of-this-sidecar"}
    async with gateway_and_simulator(**token) as (url, simulator):
        if own_key is None:
            with pytest.raises(InvalidStatus) as refused:
                async with talking(url, "stt", NOVA, headers=bearer):
                    pass
            assert refused.value.response.status_code == 401
            assert "X-API-Key" in _error_of(refused.value)["message"]
            assert simulator.log.dials == 0
            return
        async with talking(url, "stt", NOVA, headers=bearer) as talk:
            await talk.send(STT_INIT)
            await talk.until("ready")
        [record] = simulator.log.of("stt")
        assert record.headers["authorization"] == f"Bearer {own_key}"
        mine = {"Authorization": "Bearer mine", "X-API-Key": "the-token-of-this-sidecar"}
        async with talking(url, "stt", NOVA, headers=mine) as talk:
            await talk.send(STT_INIT)
            await talk.until("ready")
        assert simulator.log.of("stt")[1].headers["authorization"] == "Bearer mine"


async def test_the_client_s_bearer_goes_upstream_if_passthrough_is_on() -> None:
    async with gateway_and_simulator(slng_key_passthrough=True) as (url, simulator):
        async with talking(url, "stt", NOVA, {"Authorization": "Bearer their-own-slng-key"}) as talk:
            await talk.send(STT_INIT)
            await talk.until("ready")
        assert simulator.log.of("stt")[0].headers["authorization"] == "Bearer their-own-slng-key"


@pytest.mark.parametrize(
    ("model", "headers", "status", "code", "message_part"),
    [
        (NOVA, {"X-Slng-Provider-Key": "k"}, 400, "config_error", "BYOK is only supported for external STT/TTS routes"),
        ("nova", {}, 400, "bad_request", "'nova' is not a model"),
        ("slng/../../etc", {}, 400, "bad_request", "is not a model"),
        ("slng%2Fdeepgram/nova:3", {}, 400, "bad_request", "%2F"),
        ("slng/deep%00gram", {}, 400, "bad_request", "control characters"),
        ("slng/deep%0Agram", {}, 400, "bad_request", "control characters"),
        (NOVA, {"X-SLNG-Agent-Id": "a,b"}, 400, "bad_request", "X-SLNG-Agent-Id"),
        (NOVA, {"X-SLNG-Session-Id": "x" * 129}, 400, "bad_request", "X-SLNG-Session-Id"),
        (NOVA, {"X-SLNG-Session-Id": " "}, 400, "bad_request", "X-SLNG-Session-Id"),
        (NOVA, {"X-SLNG-Gateway": "eu-central"}, 400, "bad_request", "eu-north"),
        (NOVA, {"X-Region-Override": "eu-north-1"}, 400, "bad_request", "SLNG_BASE_URL"),
        (NOVA, {"X-SLNG-Gateway": "in", "X-World-Part-Override": "eu"}, 400, "bad_request", "'in'"),
        (NOVA, {"Origin": "https://evil.example"}, 403, "forbidden_origin", "SIDECAR_ALLOWED_ORIGINS"),
        (NOVA, {"Origin": "null"}, 403, "forbidden_origin", "SIDECAR_ALLOWED_ORIGINS"),
        (NOVA, {"Host": "rebound.example:8765"}, 403, "forbidden_origin", "SIDECAR_ALLOWED_HOSTS"),
    ],
)
async def test_an_invalid_request_is_refused_at_the_upgrade_before_any_dial(
    model: str, headers: dict[str, str], status: int, code: str, message_part: str
) -> None:
    async with gateway_and_simulator() as (url, simulator):
        with pytest.raises(InvalidStatus) as caught:
            async with talking(url, "stt", model, headers):
                pass
        assert caught.value.response.status_code == status
        error = _error_of(caught.value)
        assert error["code"] == error["data"]["code"] == code
        assert message_part in error["message"]
        assert error["fatal"] is True
        assert error["retryable"] is False
        assert simulator.log.dials == 0


async def test_an_unknown_path_is_refused_with_the_existing_paths() -> None:
    async with gateway_and_simulator() as (url, _):
        with pytest.raises(InvalidStatus) as caught:
            async with talking(url, "vad", AURA):
                pass
        assert caught.value.response.status_code == 404
        assert "/v1/bridges/unmute/stt/{model}" in _error_of(caught.value)["message"]


async def test_one_session_too_many_is_refused_until_a_place_is_free() -> None:
    async with gateway_and_simulator(sidecar_max_sessions=1) as (url, simulator):
        async with talking(url, "stt", NOVA) as first:
            await first.send(STT_INIT)
            await first.until("ready")
            with pytest.raises(InvalidStatus) as caught:
                async with talking(url, "stt", NOVA):
                    pass
            assert caught.value.response.status_code == 429
            assert _error_of(caught.value)["code"] == "session_limit"
        await simulator.log.until(lambda log: not log.open)
        async with talking_when_free(url) as second:
            await second.send(STT_INIT)
            await second.until("ready")


async def test_a_required_token_is_accepted_in_each_of_its_places_and_nothing_else_is() -> None:
    async with gateway_and_simulator(sidecar_token="local-secret") as (url, simulator):
        for headers, query in (
            ({"Authorization": "Bearer local-secret"}, ""),
            ({"X-API-Key": "local-secret"}, ""),
            ({"X-Nothing": ""}, "?token=local-secret"),
        ):
            async with talking(url, "stt", NOVA, headers, query) as talk:
                await talk.send(STT_INIT)
                await talk.until("ready")
        dials = simulator.log.dials
        for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": "Basic local-secret"}, {"X-API-Key": "ß"}):
            with pytest.raises(InvalidStatus) as caught:
                async with talking(url, "stt", NOVA, headers):
                    pass
            assert caught.value.response.status_code == 401
            assert _error_of(caught.value)["code"] == "local_auth"
        assert simulator.log.dials == dials


async def test_low_confidence_drops_partials_and_empties_finals() -> None:
    options = SimulatorOptions.fast(confidence=0.49, from_finalize=False)
    async with gateway_and_simulator(options) as (url, _), talking(url, "stt", NOVA) as talk:
        await talk.send(STT_INIT, spoken(5), {"type": "finalize"})
        final = await talk.until("final_transcript")
        assert final["transcript"] == ""
        assert "partial_transcript" not in talk.types


async def test_equal_confidence_passes_and_scope_off_passes_all() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(confidence=0.5)) as (url, _),
        talking(url, "stt", NOVA) as talk,
    ):
        await talk.send(STT_INIT, spoken(5), {"type": "close"})
        await talk.until_closed()
        assert transcribed(talk) == words(1, 5)
    settings = {"sidecar_confidence_scope": "off"}
    async with (
        gateway_and_simulator(SimulatorOptions.fast(confidence=0.1), **settings) as (url, _),
        talking(url, "stt", NOVA) as talk,
    ):
        await talk.send(STT_INIT, spoken(5), {"type": "close"})
        await talk.until_closed()
        assert transcribed(talk) == words(1, 5)


async def test_deepgram_s_own_results_become_the_bridge_s_messages() -> None:
    options = SimulatorOptions.fast(results=True)
    async with gateway_and_simulator(options) as (url, _), talking(url, "stt", NOVA) as talk:
        await talk.send(STT_INIT, spoken(5), {"type": "close"})
        await talk.until_closed()
        assert transcribed(talk) == words(1, 5)
        assert "Results" not in talk.types


@pytest.mark.parametrize(
    ("message", "message_part"),
    [
        ("{", "not JSON"),
        ("[1]", "a list"),
        ('"x"', "a string"),
        ({"type": "audio", "data": "AAAA"}, "binary"),
        ({"type": "init"}, "already had its init"),
    ],
)
async def test_an_invalid_stt_message_causes_a_named_error_and_the_session_goes_on(
    message: Any, message_part: str
) -> None:
    async with gateway_and_simulator() as (url, _), talking(url, "stt", NOVA) as talk:
        await talk.send(STT_INIT)
        await talk.until("ready")
        await talk.send(message)
        error = await talk.until("error")
        assert message_part in error["message"]
        assert error["fatal"] is False
        await talk.send({"type": "never heard of it"}, spoken(5), {"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert transcribed(talk) == words(1, 5)


async def test_audio_before_init_ends_the_session_by_name() -> None:
    async with gateway_and_simulator() as (url, simulator), talking(url, "stt", NOVA) as talk:
        await talk.send(b"\0\0")
        code, reason = await talk.until_closed()
        assert code == 1008
        assert "audio came before it" in reason
        assert simulator.log.dials == 0


@pytest.mark.parametrize(
    ("settings", "simulator", "fault", "code", "close"),
    [
        ({}, {"keys": ("another",)}, None, "auth_error", 1008),
        ({}, {}, {"do": "refuse", "when": "upgrade", "status": 429, "body": "slow down"}, "rate_limit", 1013),
        ({}, {}, {"do": "refuse", "when": "upgrade", "status": 503}, "not_ready", 1013),
        (
            {},
            {},
            {"do": "refuse", "when": "upgrade", "status": 200, "body": "<html>", "content_type": "text/html"},
            "upstream_unreachable",
            1011,
        ),
        ({"sidecar_open_timeout": 0.3}, {}, {"do": "hang", "when": "upgrade"}, "upstream_timeout", 1011),
        ({"sidecar_open_timeout": 0.3}, {"ready": "never"}, None, "upstream_timeout", 1011),
        ({}, {"ready": "error"}, None, "backend_connection_failed", 1011),
        ({}, {}, {"do": "close", "when": "init", "code": 1008, "reason": "no"}, "upstream_closed", 1011),
        ({}, {}, {"do": "drop", "when": "accepted"}, "upstream_closed", 1011),
    ],
)
async def test_an_upstream_that_does_not_open_is_reported_by_name(
    settings: dict[str, Any], simulator: dict[str, Any], fault: dict[str, Any] | None, code: str, close: int
) -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(**simulator), **settings) as (url, stand_in):
        if fault:
            stand_in.inject(**fault)
        async with talking(url, "stt", NOVA) as talk:
            await talk.send(STT_INIT)
            error = await talk.until("error")
            assert error["code"] == code
            assert error["fatal"] is True
            assert KEY not in str(error)
            assert (await talk.until_closed())[0] == close


async def test_an_unreachable_upstream_is_reported_by_name() -> None:
    async with running_gateway("ws://127.0.0.1:9") as url, talking(url, "tts", AURA) as talk:
        await talk.send(TTS_INIT)
        error = await talk.until("error")
        assert (error["code"], error["retryable"]) == ("upstream_unreachable", True)
        assert "127.0.0.1:9" in error["message"]


async def test_the_client_does_not_notice_a_drop_of_upstream_and_loses_no_word() -> None:
    async with gateway_and_simulator() as (url, simulator), talking(url, "stt", NOVA) as talk:
        fault = simulator.inject(do="drop", kind="stt", when="audio", after_ms=600)
        await talk.send(STT_INIT)
        await talk.until("ready")
        audio = spoken(10)
        for start in range(0, len(audio), 640):
            await talk.send(audio[start : start + 640])
        await talk.send({"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert transcribed(talk) == words(1, 10)
        assert set(talk.types) <= {"ready", "partial_transcript", "final_transcript"}
        assert len(fault.fired) == 1
        assert simulator.log.dials == 2


async def test_text_sent_before_ready_is_spoken_and_each_turn_has_one_terminal() -> None:
    options = SimulatorOptions.fast(terminal="both", stray_terminal_ms=20, upgrade_ms=50)
    async with gateway_and_simulator(options) as (url, simulator), talking(url, "tts", AURA) as talk:
        await talk.send(TTS_INIT)
        for number in (1, 3):
            await talk.send({"type": "text", "text": f"n{number} "}, {"type": "text", "text": f"n{number + 1}"})
            await talk.send({"type": "flush"})
        await talk.until("audio_end")
        await talk.until("audio_end")
        await talk.send({"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert whole_words(talk.audio) == [1, 2, 3, 4]
        assert talk.types == ["ready", "audio_end", "audio_end"]
        assert simulator.log.dials == 1


@pytest.mark.parametrize("form", ["audio_end", "flushed"])
async def test_the_terminal_comes_in_the_form_that_the_operator_asked_for(form: str) -> None:
    async with gateway_and_simulator(sidecar_plain_terminal=form) as (url, _), talking(url, "tts", AURA) as talk:
        await talk.send(TTS_INIT, {"type": "text", "text": "n1"}, {"type": "flush"})
        await talk.until(form)


@pytest.mark.parametrize("model", ["slng/rime/arcana:3-en", "soniox/tts-rt:v1"])
async def test_routes_that_close_with_every_turn_look_like_one_session(model: str) -> None:
    async with gateway_and_simulator() as (url, simulator), talking(url, "tts", model) as talk:
        await talk.send(TTS_INIT)
        for number in (1, 2, 3):
            await talk.send({"type": "text", "text": f"n{number}"}, {"type": "flush"})
            await talk.until("audio_end")
        assert whole_words(talk.audio) == [1, 2, 3]
        assert talk.types == ["ready", "audio_end", "audio_end", "audio_end"]
        assert simulator.log.dials == 3


async def test_the_client_does_not_notice_a_drop_before_the_first_audio() -> None:
    async with gateway_and_simulator() as (url, simulator), talking(url, "tts", AURA) as talk:
        fault = simulator.inject(do="drop", kind="tts", when="flush")
        await talk.send(TTS_INIT, {"type": "text", "text": "n1 n2"}, {"type": "flush"})
        await talk.until("audio_end")
        assert whole_words(talk.audio) == [1, 2]
        assert len(fault.fired) == 1
        assert simulator.log.dials == 2


async def test_no_audio_of_a_cleared_turn_follows_the_clear() -> None:
    options = SimulatorOptions.fast(pace=20, clear_ms=50, late_audio_ms=40)
    async with gateway_and_simulator(options) as (url, _), talking(url, "tts", AURA) as talk:
        await talk.send(TTS_INIT, {"type": "text", "text": " ".join(f"n{n}" for n in range(1, 60))}, {"type": "flush"})
        while not talk.audio:
            await talk.next()
        await talk.send({"type": "clear"})
        await talk.until("cleared")
        talk.audio.clear()
        await talk.send({"type": "text", "text": "n100 n101"}, {"type": "flush"})
        await talk.until("audio_end")
        assert whole_words(talk.audio) == [100, 101]
        assert talk.types.count("cleared") == 1


@pytest.mark.parametrize("form", ["audio_chunk", "Audio", "chunk", "data.audio", "typeless"])
async def test_audio_in_base64_comes_as_binary(form: str) -> None:
    options = SimulatorOptions.fast(audio_form=form)
    async with gateway_and_simulator(options) as (url, _), talking(url, "tts", AURA) as talk:
        await talk.send(TTS_INIT, {"type": "text", "text": "n1 n2"}, {"type": "flush"})
        await talk.until("audio_end")
        assert whole_words(talk.audio) == [1, 2]


async def test_an_invalid_tts_message_causes_a_named_error_and_the_session_goes_on() -> None:
    async with gateway_and_simulator(sidecar_max_text=100) as (url, _), talking(url, "tts", AURA) as talk:
        await talk.send({"type": "text", "text": "n1"})
        assert "first message" in (await talk.until("error"))["message"]
        await talk.send(TTS_INIT, b"\0\0")
        assert "binary" in (await talk.until("error"))["message"]
        await talk.send({"type": "text"})
        assert "'text'" in (await talk.until("error"))["message"]
        await talk.send({"type": "text", "text": "x" * 101})
        assert (await talk.until("error"))["code"] == "payload_too_large"
        await talk.send({"type": "text", "text": "n5"}, {"type": "flush"})
        await talk.until("audio_end")
        assert whole_words(talk.audio) == [5]


async def test_a_message_over_the_limit_closes_with_1009() -> None:
    async with gateway_and_simulator(sidecar_max_message=100_000) as (url, _), talking(url, "stt", NOVA) as talk:
        await talk.send(STT_INIT)
        await talk.until("ready")
        await talk.send(bytes(200_000))
        assert (await talk.until_closed())[0] == 1009


async def test_a_client_that_leaves_ends_its_upstream_connection() -> None:
    async with gateway_and_simulator() as (url, simulator):
        async with talking(url, "stt", NOVA) as talk:
            await talk.send(STT_INIT)
            await talk.until("ready")
            talk.websocket.transport.abort()
        await simulator.log.until(lambda log: not log.open)
        assert simulator.log.of("stt")[0].ended == "client"


async def test_sessions_at_once_do_not_mix() -> None:
    async with gateway_and_simulator() as (url, simulator):

        async def one(first: int) -> list[str]:
            async with talking(url, "stt", NOVA) as talk:
                await talk.send(STT_INIT)
                audio = spoken(10, first)
                for start in range(0, len(audio), 6400):
                    await talk.send(audio[start : start + 6400])
                await talk.send({"type": "close"})
                await talk.until_closed()
                return transcribed(talk)

        results = await asyncio.gather(*(one(100 * n) for n in range(1, 11)))
        assert results == [words(100 * n, 100 * n + 9) for n in range(1, 11)]
        assert simulator.log.dials == 10


def _error_of(refusal: InvalidStatus) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(refusal.response.body or b"")["error"]
    return error


class talking_when_free:
    """Open a session as soon as a place is free, which is once the last session's upstream connection is closed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: Any = None

    async def __aenter__(self) -> Talk:
        async with asyncio.timeout(5):
            while True:
                self._session = talking(self._url, "stt", NOVA)
                try:
                    talk: Talk = await self._session.__aenter__()
                    return talk
                except InvalidStatus:
                    await asyncio.sleep(0.02)

    async def __aexit__(self, *error: Any) -> None:
        await self._session.__aexit__(*error)
