from __future__ import annotations

import errno
import json
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import Target
from slng_sidecar.upstream.failures import cleaned, closed, dial_failure, quote, refused, without_keys
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
)
from websockets.frames import Close
from websockets.http11 import Response

KEY, PROVIDER_KEY = "slng_cu_0123456789", "provider-abcdef"
TARGET = Target("tts", "cartesia/sonic:3", "https://us-east.api.slng.ai", KEY, provider_key=PROVIDER_KEY)
HOST = "us-east.api.slng.ai"
BOTH = f"keys {KEY} and {PROVIDER_KEY}"


def shown(error: GatewayError) -> str:
    return json.dumps(error.as_message())


def close(code: int, reason: str = "") -> ConnectionClosed:
    return ConnectionClosedError(Close(code, reason), None)


# Statuses


@pytest.mark.parametrize(
    ("status", "code", "our_status", "retryable", "quoted"),
    [
        (400, "config_error", 400, False, "words"),
        (401, "auth_error", 401, False, "SLNG_API_KEY"),
        (403, "auth_error", 403, False, "SLNG_API_KEY"),
        (404, "config_error", 404, False, "cartesia/sonic:3"),
        (405, "upstream_unreachable", 405, False, "HTTP 405: words"),
        (408, "upstream_unreachable", 408, True, "HTTP 408"),
        (413, "payload_too_large", 413, False, "HTTP 413"),
        (418, "upstream_unreachable", 418, False, "HTTP 418"),
        (429, "rate_limit", 429, True, "no more sessions"),
        (500, "backend_connection_failed", 500, True, "HTTP 500: words"),
        (502, "backend_connection_failed", 502, True, "cartesia/sonic:3"),
        (503, "not_ready", 503, True, "HTTP 503"),
        (504, "backend_connection_failed", 504, True, "HTTP 504"),
        (200, "upstream_unreachable", 502, True, "SLNG_BASE_URL"),
        (301, "upstream_unreachable", 502, True, "SLNG_BASE_URL"),
    ],
)
def test_every_status_is_explained(status: int, code: str, our_status: int, retryable: bool, quoted: str) -> None:
    error = refused(status, b'{"error":"words"}', TARGET)

    assert (error.code, error.status, error.retryable) == (code, our_status, retryable)
    assert quoted in error.message
    assert error.upstream == {"status": status}
    assert error.fatal


@pytest.mark.parametrize("status", [401, 404, 429, 500, 200])
def test_the_gateway_is_named(status: int) -> None:
    assert HOST in refused(status, b"", TARGET).message


def test_upstreams_message_for_a_400_is_kept_word_for_word() -> None:
    words = "BYOK is only supported for external STT/TTS routes"

    assert refused(400, json.dumps({"error": words}).encode(), TARGET).message == words
    assert HOST in refused(400, b"", TARGET).message


@pytest.mark.parametrize(
    ("body", "quoted"),
    [
        (b'{"error":"words"}', "words"),
        (b'{"message":"words"}', "words"),
        (b'{"detail":"words"}', "words"),
        (b'{"error":{"message":"words"}}', "words"),
        (b'{"detail":["words"]}', "words"),
        (b'"words"', "words"),
        (b" words \r\n", "HTTP 500: words."),
        (b"some\n\twords", "some words"),
        (b"\x1b[31mwords", "words"),
        ("Größe 中".encode(), "Größe 中"),
    ],
)
def test_upstreams_message_is_quoted_in_one_line(body: bytes, quoted: str) -> None:
    message = refused(500, body, TARGET).message

    assert quoted in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "body", [b"", b"  ", b"<html>words</html>", b"\n<!DOCTYPE html><p>words", b'{"error":""}', b'{"error":" "}']
)
def test_an_empty_body_and_a_page_are_not_quoted(body: bytes) -> None:
    message = refused(500, body, TARGET).message

    assert message == f"{HOST} answered HTTP 500."


def test_a_long_body_is_cut() -> None:
    assert len(refused(500, b"word " * 100_000, TARGET).message) < 400


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 3000, b"1" * 4096])
def test_a_body_that_is_not_json_causes_no_exception(body: bytes) -> None:
    assert refused(502, body, TARGET).status == 502


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_reply_is_explained(status: int, body: bytes) -> None:
    error = refused(status, body, TARGET)

    assert error.message.isprintable()
    assert error.upstream == {"status": status}


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 405, 413, 429, 500, 502, 503])
@pytest.mark.parametrize(
    "body", [BOTH, json.dumps({"error": BOTH}), json.dumps({"x": [BOTH]}), f"{KEY}{PROVIDER_KEY}" * 50]
)
def test_no_status_repeats_a_key(status: int, body: str) -> None:
    quoted = shown(refused(status, body.encode(), TARGET))

    assert KEY not in quoted
    assert PROVIDER_KEY not in quoted


# Dialling


def status_answer(status: int, body: bytes = b"") -> InvalidStatus:
    return InvalidStatus(Response(status, "Reason", Headers(), body))


def untrusted() -> ssl.SSLError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason = "CERTIFICATE_VERIFY_FAILED"  # as OpenSSL's errors have it; errors created in Python have none
    return error


@pytest.mark.parametrize(
    ("error", "code", "quoted"),
    [
        (status_answer(401, b'{"error":"Unauthorized"}'), "auth_error", "HTTP 401: Unauthorized"),
        (close(1008, "bad key"), "upstream_closed", "code 1008: bad key"),
        (TimeoutError(), "upstream_timeout", "within 15 s"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            "upstream_unreachable",
            "Connection refused",
        ),
        (socket.gaierror(-2, "Name or service not known"), "upstream_unreachable", "Name or service not known"),
        (OSError("all connections failed"), "upstream_unreachable", "all connections failed"),
        (ConnectionResetError(), "upstream_unreachable", "ConnectionResetError"),
        (untrusted(), "upstream_unreachable", "CERTIFICATE_VERIFY_FAILED"),
        (ssl.SSLError("odd"), "upstream_unreachable", "TLS"),
        (InvalidMessage("did not receive a valid HTTP response"), "upstream_unreachable", "WebSocket"),
        (InvalidHeader("Upgrade", None), "upstream_unreachable", "WebSocket"),
        (InvalidHandshake("no"), "upstream_unreachable", "SLNG_BASE_URL"),
        (EOFError("stream ends"), "upstream_unreachable", "WebSocket"),
        (InvalidURI("x://", "no"), "upstream_unreachable", "InvalidURI"),
        (ValueError(BOTH), "upstream_unreachable", "ValueError"),
    ],
)
def test_every_failure_to_connect_is_explained(error: Exception, code: str, quoted: str) -> None:
    explained = dial_failure(error, TARGET, 15)

    assert explained.code == code
    assert quoted in explained.message
    assert HOST in explained.message
    assert explained.fatal
    assert KEY not in shown(explained)
    assert PROVIDER_KEY not in shown(explained)


@pytest.mark.parametrize("make", [OSError, InvalidHandshake, EOFError, ValueError, InvalidMessage])
def test_no_failure_repeats_a_key(make: type[Exception]) -> None:
    quoted = shown(dial_failure(make(BOTH), TARGET, 15))

    assert KEY not in quoted
    assert PROVIDER_KEY not in quoted


def test_a_reply_without_a_body_is_explained_too() -> None:
    assert dial_failure(InvalidStatus(Response(503, "Busy", Headers(), b"")), TARGET, 15).code == "not_ready"


# The end of a connection


def test_a_close_is_reported_with_code_and_reason() -> None:
    ended = closed(close(1011, f"worker died {KEY}"), TARGET)
    error = ended.error

    assert (ended.code, ended.reason) == (1011, "worker died [key]")
    assert error.code == "upstream_closed"
    assert error.message == f"{HOST} closed the connection (code 1011: worker died [key])."
    assert error.upstream == {"close_code": 1011, "reason": "worker died [key]"}
    assert error.retryable


def test_a_close_without_a_reason_is_reported_with_its_code() -> None:
    assert closed(close(1000), TARGET).error.message == f"{HOST} closed the connection (code 1000)."


def test_a_connection_that_ended_without_a_close_was_lost() -> None:
    ended = closed(ConnectionClosedError(None, None), TARGET)
    error = ended.error

    assert ended.code == 1006
    assert error.message == f"The connection to {HOST} was lost."
    assert error.upstream == {"close_code": 1006}


# Quoting


def test_an_error_message_is_cleaned_and_keeps_its_meaning() -> None:
    error = cleaned(
        GatewayError(f"odd {KEY}", f"no {PROVIDER_KEY}\nhere", status=401, fatal=False, upstream={"status": 401}),
        TARGET,
        fatal=True,
    )

    assert (error.code, error.message, error.status, error.fatal) == ("odd [key]", "no [key] here", 401, True)
    assert error.upstream == {"status": 401}


@given(st.text(st.characters(), max_size=50), st.text(st.characters(), max_size=50))
def test_a_quote_is_one_short_line_without_keys(before: str, after: str) -> None:
    line = quote(f"{before}{KEY}{after}" * 10, (KEY,))

    assert KEY not in line
    assert line.isprintable()
    assert len(line) <= 300


def test_a_quote_that_is_cut_is_marked() -> None:
    assert quote("x" * 301, ()) == "x" * 299 + "…"
    assert quote("x" * 300, ()) == "x" * 300


# A key with every character that JSON may escape, as a provider's key may be.
ODD = 'sk/odd+"key\\0123&<456>'


def escaped(text: str, how: str) -> str:
    """Return a text as a JSON string, escaped as writers in other languages escape it."""
    plain = json.dumps(text)
    match how:
        case "slashes":  # as PHP escapes
            return plain.replace("/", "\\/")
        case "markup":  # as Go escapes
            return plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003E")
        case "all":
            return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'
    return plain


@pytest.mark.parametrize("how", ["not", "slashes", "markup", "all"])
@pytest.mark.parametrize("key", [KEY, ODD, "sk-slashed/0123456789"])
def test_a_key_in_json_is_found_however_it_is_written(key: str, how: str) -> None:
    text = f'{{"type":"ready","n":"a\\\\u0041\\n\\/","x":{escaped(f"the {key}{key}.", how)}}}'
    assert json.loads(text)["x"] == f"the {key}{key}."

    cleaned = json.loads(without_keys(text, ("another-key", key)))

    assert cleaned == {"type": "ready", "n": "a\\u0041\n/", "x": "the [key][key]."}


def test_a_text_without_a_key_is_left_unchanged() -> None:
    text = '{"x":"\\u0041\\/\\\\ sk-odd"}'
    assert without_keys(text, (KEY, ODD)) is text


def test_a_key_that_begins_with_another_key_is_removed_completely() -> None:
    assert without_keys(f"{KEY}-of-provider", (KEY, f"{KEY}-of-provider")) == "[key]"
