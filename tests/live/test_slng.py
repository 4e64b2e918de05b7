"""The real SLNG: a probe for each disputed fact, which prints the answer (run with ``-s``, or read the summary)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
from slng_sidecar.config import load_settings
from support import live_probes as ask
from support.live_probes import Gateway

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get("SLNG_API_KEY"), reason="needs SLNG_API_KEY: this talks to the real SLNG"),
]

STT, EXTERNAL_STT = "slng/deepgram/nova:3-en", "deepgram/nova:3"
TTS, EXTERNAL_TTS = "slng/deepgram/aura:2-en", "deepgram/aura:2"
ROUTES = (TTS, EXTERNAL_TTS, "cartesia/sonic:3.5", "gradium/tts:default", "soniox/tts-rt:v1", "sarvam/bulbul:v3")


@pytest.fixture
def gateway() -> Gateway:
    settings, secrets = load_settings()
    assert secrets.api_key
    return Gateway(settings.gateway, secrets.api_key)


async def show(question: str, answer: Awaitable[str]) -> None:
    """Print the answer of a probe. A test does not fail because of an answer."""
    try:
        result = await answer
    except Exception as error:
        result = f"no answer ({type(error).__name__}: {error})"
    print(f"\nSLNG: {question}: {result}")


async def test_does_the_global_gateway_answer(gateway: Gateway) -> None:
    await show("api.slng.ai", ask.does_it_answer(Gateway("https://api.slng.ai", gateway.key)))
    await show(ask.host(gateway.url), ask.does_it_answer(gateway))


@pytest.mark.parametrize("model", ROUTES)
async def test_is_a_standalone_flush_honoured(gateway: Gateway, model: str) -> None:
    await show(f"flush honoured on {model}", ask.is_a_standalone_flush_honoured(gateway, model))


@pytest.mark.parametrize("model", ROUTES)
async def test_which_terminal_ends_a_turn(gateway: Gateway, model: str) -> None:
    await show(f"terminal of {model}", ask.which_terminal(gateway, model))


@pytest.mark.parametrize("model", ROUTES)
async def test_does_a_connection_outlive_its_turn(gateway: Gateway, model: str) -> None:
    await show(f"after a turn {model}", ask.what_happens_to_the_connection(gateway, model))


@pytest.mark.parametrize(("kind", "model"), [("stt", STT), ("stt", EXTERNAL_STT), ("tts", TTS), ("tts", EXTERNAL_TTS)])
async def test_is_the_slng_prefix_needed(gateway: Gateway, kind: str, model: str) -> None:
    await show(f"route {kind} {model}", ask.is_the_route_accepted(gateway, kind, model))


@pytest.mark.parametrize("header", [{"X-Region-Override": "eu-north-1"}, {"X-World-Part-Override": "eu"}])
async def test_are_region_headers_accepted(gateway: Gateway, header: dict[str, str]) -> None:
    for base in ("https://api.slng.ai", gateway.url):
        await show(
            f"{header} at {ask.host(base)}", ask.is_the_route_accepted(Gateway(base, gateway.key), "tts", TTS, header)
        )


@pytest.mark.parametrize("model", ROUTES)
async def test_in_which_form_does_audio_come(gateway: Gateway, model: str) -> None:
    await show(f"sound of {model}", ask.how_does_audio_come(gateway, model))


@pytest.mark.parametrize(
    ("question", "probe"),
    [
        ("HTTP TTS", lambda gateway: ask.is_http_tts_served(gateway, TTS)),
        ("an empty finalize draws", lambda gateway: ask.what_answers_an_empty_finalize(gateway, STT)),
        ("an empty flush draws", lambda gateway: ask.what_answers_an_empty_flush(gateway, TTS)),
        ("close on STT is answered by", lambda gateway: ask.how_is_close_answered(gateway, "stt", STT)),
        ("close on TTS is answered by", lambda gateway: ask.how_is_close_answered(gateway, "tts", TTS)),
    ],
)
async def test_what_is_not_known(gateway: Gateway, question: str, probe: Callable[[Gateway], Awaitable[str]]) -> None:
    await show(question, probe(gateway))
