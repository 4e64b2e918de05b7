"""The arguments that the services accept and refuse when they are created."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger
from pipecat.transcriptions.language import Language
from pipecat_slng_sidecar import (
    SlngHttpTTSService,
    SlngSTTService,
    SlngSTTSettings,
    SlngTTSService,
    SlngTTSSettings,
    WorldPart,
    options,
)
from pipecat_slng_sidecar.options import Address

EVERY = [SlngSTTService, SlngTTSService, SlngHttpTTSService]
Service = type[SlngSTTService] | type[SlngTTSService] | type[SlngHttpTTSService]


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="TRACE")
    yield lines
    logger.remove(sink)


@pytest.mark.parametrize(
    ("text", "websocket"),
    [
        ("http://127.0.0.1:8765", "ws://127.0.0.1:8765/v1/bridges/unmute/stt/slng/deepgram/nova:3-en"),
        ("ws://sidecar:8765/", "ws://sidecar:8765/v1/bridges/unmute/stt/slng/deepgram/nova:3-en"),
        ("https://h/below", "wss://h/below/v1/bridges/unmute/stt/slng/deepgram/nova:3-en"),
    ],
)
def test_an_address_can_be_an_http_or_websocket_url(text: str, websocket: str) -> None:
    assert Address.of(text).websocket_url("stt", "slng/deepgram/nova:3-en") == websocket


@pytest.mark.parametrize("text", ["unix:/run/s.sock", "unix:///run/s.sock"])
def test_an_address_can_be_a_unix_socket(text: str) -> None:
    address = Address.of(text)
    assert (address.socket, str(address)) == ("/run/s.sock", "unix:/run/s.sock")


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8765", "localhost", "unix:relative.sock", "ftp://h", "http://", "http://h?x=1"]
)
def test_an_invalid_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"sidecar_url .*(http://127\.0\.0\.1:8765|unix:/run)"):
        Address.of(text)


def test_the_address_comes_from_the_environment_if_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Address.of(None).url == "http://127.0.0.1:8765"
    monkeypatch.setenv("SLNG_SIDECAR_URL", "http://sidecar:1")
    assert Address.of(None).url == "http://sidecar:1"
    assert Address.of("http://given:2").url == "http://given:2"


@pytest.mark.parametrize("service", EVERY)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "slng/deepgram/aura:2-en", "provider_key": "k-secret"}, "BYOK is only supported for external"),
        ({"world_part": "mars"}, "Unknown world_part 'mars'. Use one of: eu-north, "),
        ({"world_part": "in", "region_override": "eu-north-1"}, "Pass either world_part or the overrides"),
        ({"external_agent_id": " "}, "external_agent_id must be a non-empty string"),
        ({"external_session_id": "a,b"}, "must not contain commas"),
        ({"external_session_id": "x" * 129}, "128 characters or fewer"),
        ({"sidecar_url": "sidecar"}, "sidecar_url 'sidecar' is not a valid address"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_the_reason(
    service: Service, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        service(**arguments)
    assert message in str(refusal.value)
    assert "k-secret" not in str(refusal.value)


def test_byok_is_checked_against_the_model_of_the_settings() -> None:
    with pytest.raises(ValueError, match="BYOK"):
        SlngSTTService(
            model="deepgram/nova:3", provider_key="k", settings=SlngSTTSettings(model="slng/deepgram/nova:3-en")
        )


@pytest.mark.parametrize("encoding", ["mp3", "opus", "flac"])
def test_stt_refuses_encodings_other_than_that_of_pipecat_s_audio(encoding: str) -> None:
    with pytest.raises(ValueError, match="is not supported: Pipecat's audio is PCM"):
        SlngSTTService(encoding=encoding)


def test_tts_refuses_an_encoding_that_cannot_be_decoded() -> None:
    with pytest.raises(ValueError, match="is not supported: neither the sidecar nor the plugin can decode it"):
        SlngTTSService(encoding="flac")


def test_a_confidence_scope_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'all', 'partials' or 'off', not 'some'"):
        SlngSTTService(confidence_scope="some")


def test_every_argument_of_0_4_0_is_accepted() -> None:
    common: dict[str, Any] = {
        "api_key": "k", "model": "deepgram/x:1", "sample_rate": 16_000, "region_override": "eu-north-1",
        "world_part_override": "eu", "provider_key": "p", "language": Language.DE,
    }  # fmt: skip
    SlngSTTService(**common, base_url="api.slng.ai", encoding="linear16", enable_vad=True, enable_partials=False)
    SlngTTSService(**common, base_url="api.slng.ai", encoding="linear16", voice="v", speed=1.1)
    SlngHttpTTSService(**common, base_url="https://api.slng.ai", voice="v", speed=1.1, aiohttp_session=None)


def test_every_argument_of_0_7_0_is_accepted() -> None:
    common: dict[str, Any] = {
        "api_key": "k", "world_part": WorldPart.IN, "base_url": "in.api.slng.ai", "model": "deepgram/x:1",
        "encoding": "linear16", "sample_rate": None, "provider_key": "p", "external_agent_id": "a",
        "external_session_id": "s",
    }  # fmt: skip
    SlngSTTService(**common, enable_partials=True, settings=SlngSTTSettings(language=Language.DE))
    SlngTTSService(
        **common, voice="v", speed=None, pronunciation={"mode": "rewrite", "name": "n"}, warm_standby_enabled=True,
        settings=SlngTTSSettings(speed=2.0),
    )  # fmt: skip


@pytest.mark.parametrize("service", EVERY)
def test_an_unused_key_is_logged_once_and_without_its_value(
    service: Service, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "_logged", set())
    for _ in range(3):
        service(api_key="sk-very-secret", base_url="api.slng.ai")
    unused = [line for line in log if "is not used" in line]
    assert len(unused) == 2
    assert "sk-very-secret" not in "".join(log)
    assert "sk-very-secret" not in repr(vars(service(api_key="sk-very-secret")))


@pytest.mark.parametrize(
    ("model", "language"),
    [
        ("slng/deepgram/nova:3-en", Language.EN),
        ("deepgram/nova:3", Language.EN),
        ("slng/openai/whisper:large-v3", Language.EN),
        ("slng/deepgram/nova:3-en-US", Language.EN),
        ("slng/deepgram/nova:3-hi", None),
        ("slng/deepgram/nova:3-pt-BR", None),
        ("slng/deepgram/nova:3-multi", None),
    ],
)
def test_the_default_language_is_english_unless_the_model_names_another_one(
    model: str, language: Language | None
) -> None:
    assert SlngSTTService(model=model)._settings.language == language
    assert SlngSTTService(model=model, language=Language.FR)._settings.language == Language.FR


def test_settings_take_precedence_over_arguments() -> None:
    stt = SlngSTTService(enable_partials=True, settings=SlngSTTSettings(enable_partials=False, language="hi"))
    assert (stt._settings.enable_partials, stt._settings.enable_vad, stt._settings.language) == (False, True, "hi")
    tts = SlngTTSService(voice="a", settings=SlngTTSSettings(voice="b", speed=1.5))
    assert (tts._settings.voice, tts._settings.speed) == ("b", 1.5)
