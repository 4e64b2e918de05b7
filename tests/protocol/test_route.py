from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import (
    BYOK_REFUSED,
    WORLD_PARTS,
    Target,
    check_base_url,
    check_byok,
    check_model,
    check_region,
    check_tracking_id,
    check_world_part,
    gateway_of_world_part,
    is_hosted,
)


def target(**fields: Any) -> Target:
    given = {"kind": "tts", "model": "cartesia/sonic:3", "base_url": "https://api.slng.ai", "api_key": "slng_cu_key"}
    return Target(**{**given, **fields})


@pytest.mark.parametrize(
    "model",
    [
        "slng/deepgram/nova:3-en",
        "slng/deepgram/aura:2-en",
        "cartesia/sonic:3.5",
        "a/b",
        "a/b/c/d:e",
        "0/1:2",
        "A_-.b/c..d",
    ],
)
def test_a_route_is_a_model(model: str) -> None:
    assert check_model(model) == model


@pytest.mark.parametrize(
    "model",
    [
        "", "nova", "nova:3", "/a/b", "a/b/", "a//b", "a/b:", "a/b:c:d", "a:b/c", "a/.b", "../b", "a/..", "a/b?c",
        "a/b#c", "a/b c", "a/b\n", "a/é", "a/b%2f", "-a/b", "a/b:-c", "a/" + "b" * 200,
    ],
)  # fmt: skip
def test_any_other_text_is_no_model(model: str) -> None:
    with pytest.raises(GatewayError) as caught:
        check_model(model)

    assert (caught.value.code, caught.value.status) == ("bad_request", 400)
    assert len(caught.value.message) < 400


@given(st.text(max_size=250))
def test_any_text_is_a_model_or_refused(text: str) -> None:
    with contextlib.suppress(GatewayError):
        assert check_model(text) == text
        assert text.isascii()


@pytest.mark.parametrize(
    ("model", "hosted"), [("slng/deepgram/nova:3", True), ("deepgram/nova:3", False), ("slngx/a", False)]
)
def test_slngs_own_routes_are_hosted(model: str, hosted: bool) -> None:
    assert is_hosted(model) is hosted


def test_a_provider_key_is_refused_on_a_hosted_route_in_upstreams_words() -> None:
    with pytest.raises(GatewayError) as caught:
        check_byok("slng/deepgram/nova:3-en", "provider-key")

    assert caught.value.status == 400
    assert caught.value.message == BYOK_REFUSED == "BYOK is only supported for external STT/TTS routes"
    check_byok("deepgram/nova:3", "provider-key")
    check_byok("slng/deepgram/nova:3-en", None)
    check_byok("slng/deepgram/nova:3-en", "")


@pytest.mark.parametrize(
    ("value", "kept"),
    [("call-1", "call-1"), ("  call 1 \t", "call 1"), ("x" * 128, "x" * 128), ("ü", "ü"), ("a;b=c", "a;b=c")],
)
def test_a_tracking_id_is_trimmed(value: str, kept: str) -> None:
    assert check_tracking_id(value, "X-SLNG-Session-Id") == kept


@pytest.mark.parametrize("value", ["", "   ", "x" * 129, "a,b", "a\nb", "a\x00b", "a\x7fb", "a\tb"])
def test_a_bad_tracking_id_is_refused_with_the_name_of_the_header(value: str) -> None:
    with pytest.raises(GatewayError, match="X-SLNG-Session-Id") as caught:
        check_tracking_id(value, "X-SLNG-Session-Id")

    assert caught.value.code == "bad_request"


def test_the_13_world_parts_of_upstream_exist() -> None:
    assert len(set(WORLD_PARTS)) == 13
    for name in WORLD_PARTS:
        assert check_world_part(f" {name.upper()} ") == name
        assert gateway_of_world_part(name) == f"https://{name}.api.slng.ai"


@pytest.mark.parametrize("value", ["", "eu", "eu-central", "na", "us-east.evil.example/", "us-east\n1"])
def test_any_other_world_part_is_refused_with_those_that_exist(value: str) -> None:
    with pytest.raises(GatewayError) as caught:
        check_world_part(value)

    assert all(name in caught.value.message for name in WORLD_PARTS)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("eu-north-1", "eu-north-1"),
        (" EU-North-1 ", "eu-north-1"),
        ("us-east-1,eu-north-1 ,  ap", "us-east-1, eu-north-1, ap"),
    ],
)
def test_regions_are_written_as_upstream_wants_them(value: str, kept: str) -> None:
    assert check_region(value, "X-Region-Override") == kept


@pytest.mark.parametrize("value", ["", " ", ",", "a,,b", "a,", "a b", "a;b", "a\r\nX-Evil: 1", "é", "a" * 201])
def test_a_bad_region_is_refused_with_the_name_of_the_setting(value: str) -> None:
    with pytest.raises(GatewayError, match="X-Region-Override"):
        check_region(value, "X-Region-Override")


@given(st.text(max_size=30))
def test_no_region_breaks_a_header(text: str) -> None:
    with contextlib.suppress(GatewayError):
        assert check_region(text, "region").isprintable()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("https://api.slng.ai", "https://api.slng.ai"),
        (" https://api.slng.ai/ ", "https://api.slng.ai"),
        ("ws://127.0.0.1:9100", "ws://127.0.0.1:9100"),
        ("http://[::1]:9100/prefix/", "http://[::1]:9100/prefix"),
        ("api.slng.ai", "https://api.slng.ai"),
        ("localhost:9100", "https://localhost:9100"),
        ("WSS://api.slng.ai", "wss://api.slng.ai"),
    ],
)
def test_a_base_url_is_normalised(value: str, kept: str) -> None:
    assert check_base_url(value) == kept


@pytest.mark.parametrize(
    "value", ["", "/", "ftp://x", "https://", "https:///path", "https://x?a=b", "https://x#a", "http://[::1"]
)
def test_an_invalid_base_url_is_refused(value: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a settings validator's
        check_base_url(value)


@pytest.mark.parametrize("value", ["not a url", "https://a b", "http://host:99999", "http://host:port"])
def test_a_base_url_that_can_never_be_reached_is_refused(value: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a settings validator's
        check_base_url(value)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.slng.ai", "wss://api.slng.ai/v1/bridges/unmute/tts/cartesia/sonic:3"),
        ("http://127.0.0.1:9100", "ws://127.0.0.1:9100/v1/bridges/unmute/tts/cartesia/sonic:3"),
        ("ws://127.0.0.1:9100/x", "ws://127.0.0.1:9100/x/v1/bridges/unmute/tts/cartesia/sonic:3"),
        ("wss://us-east.api.slng.ai", "wss://us-east.api.slng.ai/v1/bridges/unmute/tts/cartesia/sonic:3"),
    ],
)
def test_the_websocket_address_of_the_bridge_has_the_model_unescaped(base_url: str, url: str) -> None:
    assert target(base_url=base_url).url == url


@pytest.mark.parametrize("base_url", ["HTTPS://api.slng.ai", "Ws://127.0.0.1:9100"])
def test_a_scheme_in_capitals_reaches_the_bridge_as_well(base_url: str) -> None:
    assert urlsplit(target(base_url=check_base_url(base_url)).url).scheme in ("ws", "wss")
    assert target(base_url=check_base_url(base_url)).url.startswith("ws")


def test_the_headers_carry_the_key_and_what_is_set() -> None:
    assert target().headers() == {"Authorization": "Bearer slng_cu_key"}
    assert target(
        provider_key="prov", region="eu-north-1", world_part_override="eu", agent_id="a", session_id="s"
    ).headers() == {
        "Authorization": "Bearer slng_cu_key",
        "X-Slng-Provider-Key": "prov",
        "X-Region-Override": "eu-north-1",
        "X-SLNG-Agent-Id": "a",
        "X-SLNG-Session-Id": "s",
    }
    assert target(world_part_override="eu").headers()["X-World-Part-Override"] == "eu"


def test_the_operators_provider_key_is_not_sent_to_hosted_routes() -> None:
    assert "X-Slng-Provider-Key" not in target(model="slng/deepgram/aura:2-en", provider_key="prov").headers()


def test_no_key_shows_in_a_targets_repr() -> None:
    shown = repr(target(provider_key="prov_key"))

    assert shown == "Target(tts cartesia/sonic:3 at https://api.slng.ai)"
    assert target(provider_key="prov_key").secrets == ("slng_cu_key", "prov_key")
    assert target().secrets == ("slng_cu_key",)


def test_targets_with_equal_fields_are_equal() -> None:
    assert target() == target()
    assert hash(target()) == hash(target())
    for name in ("kind", "model", "base_url", "api_key", "provider_key", "region", "session_id"):
        assert target(**{name: "stt"}) != target()
