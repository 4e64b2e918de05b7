from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.errors import STATUS_OF_CODE, GatewayError
from slng_sidecar.protocol.messages import (
    Audio,
    Cleared,
    Other,
    Ready,
    Terminal,
    TimedWord,
    Transcript,
    UpstreamError,
    dump,
    parse_error,
    parse_object,
    parse_stt,
    parse_tts,
    type_of,
    usable_confidence,
)
from support.conversation import json_values, odd_objects, strict_json


def tts(message: dict[str, Any]) -> Any:
    """Return the only event of a TTS message."""
    (found,) = parse_tts(json.dumps(message))
    return found


def transcript(message: dict[str, Any]) -> Transcript:
    found = parse_stt(json.dumps(message))
    assert isinstance(found, Transcript)
    return found


# Reading and writing JSON


def test_a_message_is_written_compactly_and_in_utf8() -> None:
    assert dump({"type": "text", "text": "Grüße 👋"}) == '{"type":"text","text":"Grüße 👋"}'


def test_a_lone_surrogate_is_written_so_that_it_can_be_sent() -> None:
    text = dump({"text": "é\ud800"})

    text.encode()
    assert json.loads(text) == {"text": "é\ud800"}


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_message_survives_reading_writing_and_reading_again(value: dict[str, Any]) -> None:
    message = parse_object(json.dumps(value))

    assert strict_json(dump(message)) == message


@given(st.dictionaries(st.text(st.characters(), max_size=5), st.text(st.characters(), max_size=5), max_size=3))
def test_any_text_survives_the_wire(message: dict[str, str]) -> None:
    assert strict_json(dump(message)) == message


def test_a_number_that_json_cannot_express_is_read_as_null() -> None:
    assert parse_object('{"a":NaN,"b":[Infinity,-Infinity]}') == {"a": None, "b": [None, None]}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400 + ".0"])
def test_a_number_beyond_floats_is_not_written_as_infinity(number: str) -> None:
    strict_json(dump(parse_object(f'{{"a":{number}}}')))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ("hello", "not JSON"),
        ('{"a":1', "not JSON"),
        ('{"a":1}x', "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("[]", "a list"),
        ('"x"', "a string"),
        ("null", "true, false or null"),
        ("NaN", "true, false or null"),
        ("true", "true, false or null"),
        ("1.5", "a number"),
        ("[" * 100_000, "nested"),
    ],
)
def test_a_value_that_is_no_object_is_refused_with_its_kind(text: str, expected: str) -> None:
    with pytest.raises(GatewayError, match=expected) as caught:
        parse_object(text)

    assert caught.value.code == "bad_request"
    assert not caught.value.fatal


def test_a_number_too_long_to_read_is_refused_as_such() -> None:
    with pytest.raises(GatewayError) as caught:
        parse_object('{"a":' + "1" * 5000 + "}")

    assert "nested" not in caught.value.message


@pytest.mark.parametrize(
    ("message", "kind"), [({"type": "Ready"}, "ready"), ({"type": 7}, ""), ({"type": None}, ""), ({}, "")]
)
def test_types_are_compared_in_lower_case(message: dict[str, Any], kind: str) -> None:
    assert type_of(message) == kind


@given(st.text() | json_values.map(json.dumps) | odd_objects.map(json.dumps))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(GatewayError):
        parse_stt(text)
    with contextlib.suppress(GatewayError):
        assert parse_tts(text)


# Messages of both bridges


@pytest.mark.parametrize("kind", ["ready", "Ready", "READY"])
def test_ready(kind: str) -> None:
    message = {"type": kind, "session_id": "s", "slng_request_id": "r", "x": 1}
    for found in (parse_stt(json.dumps(message)), tts(message)):
        assert isinstance(found, Ready)
        assert (found.session_id, found.slng_request_id, found.raw) == ("s", "r", message)


def test_ready_without_usable_ids() -> None:
    found = tts({"type": "ready", "session_id": 7, "slng_request_id": ""})

    assert (found.session_id, found.slng_request_id) == (None, None)


@pytest.mark.parametrize(
    ("message", "code", "text", "status"),
    [
        ({"type": "error", "code": "rate_limit", "message": "slow"}, "rate_limit", "slow", 429),
        ({"type": "error", "data": {"code": "auth_error", "message": "key"}}, "auth_error", "key", 401),
        ({"type": "error", "data": {"code": "auth_error"}, "code": "x", "message": "top"}, "auth_error", "top", 401),
        ({"type": "error", "message": "top", "data": {"message": "inner"}}, "provider_error", "inner", 502),
        ({"type": "error", "message": "  gone idle "}, "provider_error", "gone idle", 502),
        ({"type": "Error", "description": "bad audio"}, "provider_error", "bad audio", 502),
        ({"error": "quota exceeded"}, "provider_error", "quota exceeded", 502),
        ({"error": {"message": "inner", "code": 1}}, "provider_error", "inner", 502),
        ({"type": "error", "error": {"message": " ", "description": "deep"}}, "provider_error", "deep", 502),
        ({"type": "error", "status_code": 429}, "rate_limit", "rate_limit", 429),
        ({"type": "error", "status_code": "429"}, "rate_limit", "rate_limit", 429),
        ({"type": "error", "code": 401, "message": "key"}, "auth_error", "key", 401),
        ({"type": "error", "code": "401", "message": "key"}, "auth_error", "key", 401),
        ({"type": "error", "err_code": 503}, "not_ready", "not_ready", 503),
        ({"type": "error", "data": {"status_code": "400"}}, "config_error", "config_error", 400),
        ({"type": "error", "data": {"code": 413}}, "payload_too_large", "payload_too_large", 413),
        ({"type": "error", "code": "rate_limit", "data": "busy"}, "rate_limit", "rate_limit", 429),
        ({"type": "error", "code": "rate_limit", "data": None}, "rate_limit", "rate_limit", 429),
        ({"type": "error", "code": "brand_new", "status_code": 418}, "brand_new", "brand_new", 418),
        ({"type": "error", "code": "brand_new"}, "brand_new", "brand_new", 502),
        ({"type": "error"}, "provider_error", "provider_error", 502),
        ({"type": "error", "code": "", "message": ""}, "provider_error", "provider_error", 502),
        ({"type": "error", "code": 7, "message": "m"}, "provider_error", "m", 502),
        ({"type": "error", "code": True, "status_code": 10**400}, "provider_error", "provider_error", 502),
        ({"type": "error", "code": -1, "message": ["m"]}, "provider_error", "provider_error", 502),
    ],
)
def test_every_shape_of_an_error_is_understood(message: dict[str, Any], code: str, text: str, status: int) -> None:
    for found in (parse_stt(json.dumps(message)), tts(message)):
        assert isinstance(found, UpstreamError)
        assert (found.error.code, found.error.message, found.error.status) == (code, text, status)
        assert not found.error.fatal


def test_a_numeric_status_is_passed_on() -> None:
    assert parse_error({"code": "429"}).upstream == {"status": 429}
    assert parse_error({"code": "rate_limit", "data": {"status_code": 429}}).upstream == {"status": 429}
    assert parse_error({"code": "rate_limit"}).upstream is None


@pytest.mark.parametrize("status", range(400, 600))
def test_a_bare_status_decides_whether_a_retry_makes_sense(status: int) -> None:
    error = parse_error({"code": status, "message": "m"})

    assert error.retryable is (status >= 500 or status in (408, 409, 425, 429))


@pytest.mark.parametrize("status", [403, 404, 405, 504])
def test_a_bare_status_of_upstream_is_not_attributed_to_the_clients_origin_or_route(status: int) -> None:
    assert parse_error({"code": status}).code not in (
        "forbidden_origin",
        "not_found",
        "method_not_allowed",
        "local_auth",
    )


@pytest.mark.parametrize("code", sorted(STATUS_OF_CODE))
def test_a_known_code_has_the_status_of_the_table(code: str) -> None:
    assert parse_error({"data": {"code": code}}).status == STATUS_OF_CODE[code]


# Transcripts


def test_a_final_with_all_its_fields() -> None:
    raw = {
        "type": "final_transcript",
        "transcript": "hi there",
        "confidence": 0.75,
        "language": "en",
        "words": [
            {"word": "hi", "start": 0, "end": 0.25},
            {"text": "there", "start": 0.25, "end": 1},
            {"start": 1, "end": 2},
        ],
        "from_finalize": True,
    }
    found = transcript(raw)

    assert found.final
    assert (found.text, found.confidence, found.from_finalize) == ("hi there", 0.75, True)
    assert found.words == (TimedWord("hi", 0, 0.25), TimedWord("there", 0.25, 1), TimedWord("", 1, 2))
    assert found.raw == raw


def test_a_partial_with_little() -> None:
    found = transcript({"type": "Partial_Transcript"})

    assert not found.final
    assert (found.text, found.confidence, found.words, found.from_finalize) == ("", None, (), None)
    assert found.raw == {"type": "Partial_Transcript", "transcript": ""}


@pytest.mark.parametrize("text", [None, "", "  ", 7, ["x"]])
def test_a_text_that_is_only_in_the_alternative_is_found(text: object) -> None:
    channel = {"alternatives": [{"transcript": "inner"}]}

    assert transcript({"type": "final_transcript", "transcript": text, "channel": channel}).text == "inner"


@pytest.mark.parametrize(
    "channel", [None, 7, {}, {"alternatives": None}, {"alternatives": []}, {"alternatives": ["x"]}]
)
def test_a_broken_channel_leaves_the_text_alone(channel: object) -> None:
    assert transcript({"type": "final_transcript", "transcript": "top", "channel": channel}).text == "top"
    assert transcript({"type": "final_transcript", "transcript": " ", "channel": channel}).text == " "


@pytest.mark.parametrize(
    ("is_final", "final"), [(True, True), (False, False), (None, False), ("true", False), (1, False)]
)
def test_results_become_a_bridge_message(is_final: object, final: bool) -> None:
    words = [{"word": "hi", "start": 0.5, "end": 0.75}]
    found = transcript(
        {
            "type": "Results",
            "channel": {"alternatives": [{"transcript": "hi", "confidence": 0.9, "words": words, "x": 1}]},
            "is_final": is_final,
            "from_finalize": True,
            "start": 0.5,
            "duration": 1,
            "channel_index": [0],
        }
    )

    assert found.final is final
    assert found.words == (TimedWord("hi", 0.5, 0.75),)
    assert found.raw == {
        "type": "final_transcript" if final else "partial_transcript",
        "transcript": "hi",
        "confidence": 0.9,
        "words": words,
        "from_finalize": True,
        "start": 0.5,
        "duration": 1,
    }


@pytest.mark.parametrize("channel", [None, {}, {"alternatives": [None]}, {"alternatives": [{"transcript": None}]}])
def test_results_without_an_alternative_are_an_empty_transcript(channel: object) -> None:
    found = transcript({"type": "Results", "channel": channel, "is_final": True})

    assert (found.final, found.text, found.raw["transcript"]) == (True, "", "")


@pytest.mark.parametrize(
    ("raw", "score"),
    [
        ('{"confidence":0.5}', 0.5),
        ('{"confidence":0}', 0.0),
        ('{"confidence":1}', 1.0),
        ('{"confidence":1.5}', 1.5),
        ("{}", None),
        ('{"confidence":null}', None),
        ('{"confidence":true}', None),
        ('{"confidence":false}', None),
        ('{"confidence":"0.1"}', None),
        ('{"confidence":NaN}', None),
        ('{"confidence":Infinity}', None),
        ('{"confidence":1e999}', None),
        ('{"confidence":[0.1]}', None),
        ('{"confidence":1' + "0" * 400 + "}", None),
        ('{"channel":{"alternatives":[{"confidence":0.25}]}}', 0.25),
        ('{"confidence":null,"channel":{"alternatives":[{"confidence":0.25}]}}', 0.25),
        ('{"confidence":true,"channel":{"alternatives":[{"confidence":0.25}]}}', 0.25),
        ('{"confidence":0.75,"channel":{"alternatives":[{"confidence":0.25}]}}', 0.75),
        ('{"channel":{"alternatives":[{"confidence":"x"},{"confidence":0.25}]}}', None),
    ],
)
def test_only_a_number_is_a_score(raw: str, score: float | None) -> None:
    assert usable_confidence(json.loads(raw)) == score
    assert usable_confidence(parse_object(raw)) == score


@pytest.mark.parametrize(
    "words",
    [
        "hi",
        {},
        ["hi"],
        [{"word": "hi"}],
        [{"word": "hi", "start": 0}],
        [{"start": "0", "end": 1}],
        [{"start": True, "end": 1}],
    ],
)
def test_words_without_times_are_no_words(words: object) -> None:
    assert transcript({"type": "final_transcript", "transcript": "hi", "words": words}).words == ()


@pytest.mark.parametrize("value", [None, 1, "true", []])
def test_a_from_finalize_that_is_no_boolean_is_ignored(value: object) -> None:
    assert transcript({"type": "final_transcript", "from_finalize": value}).from_finalize is None


@pytest.mark.parametrize(
    "message",
    [{"type": "SpeechStarted"}, {"type": "utterance_end", "last_word_end": 1}, {}, {"error": ""}, {"type": 1}],
)
def test_other_stt_messages_stay_as_they_are(message: dict[str, Any]) -> None:
    assert parse_stt(json.dumps(message)) == Other(message)


# Audio and the ends of turns

PCM = b"\x00\x01\xff\xfe"
ENCODED = base64.b64encode(PCM).decode()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "audio_chunk", "data": ENCODED, "sequence": 1},
        {"type": "Audio", "audio": ENCODED},
        {"type": "audio", "data": ENCODED},
        {"type": "chunk", "audio": ENCODED},
        {"type": "chunk", "data": ENCODED},
        {"type": "audio", "data": {"audio": ENCODED}},
        {"audio": ENCODED},
        {"audio": ENCODED, "isFinal": False},
        {"audio": ENCODED, "isFinal": None, "error": None},
    ],
)
def test_base64_audio_is_found_in_every_place(message: dict[str, Any]) -> None:
    assert tts(message) == Audio(PCM)


@pytest.mark.parametrize("final", [True, 1, "true"])
def test_a_message_can_be_both_audio_and_the_end(final: object) -> None:
    message = {"audio": ENCODED, "isFinal": final}

    assert parse_tts(json.dumps(message)) == (Audio(PCM), Terminal("audio_end", {"isFinal": final}))
    assert tts({"audio": None, "isFinal": final}) == Terminal("audio_end", {"isFinal": final})


@pytest.mark.parametrize("broken", ["A", "?", "AAA", "QUJD\n", "QU JD", "é", "😀", "\ud800"])
def test_broken_base64_is_an_error_of_its_own(broken: str) -> None:
    with pytest.raises(GatewayError) as caught:
        parse_tts(json.dumps({"type": "audio_chunk", "data": broken}))

    assert caught.value.code == "unsupported_audio_format"


@pytest.mark.parametrize(
    "message", [{"type": "audio"}, {"type": "audio", "data": 7}, {"type": "chunk", "data": {}}, {"audio": []}]
)
def test_an_audio_message_without_audio_is_just_another(message: dict[str, Any]) -> None:
    assert tts(message) == Other(message)


def test_audio_is_not_read_from_messages_of_other_types() -> None:
    message = {"type": "segment_start", "audio": ENCODED, "data": ENCODED, "isFinal": True}

    assert tts(message) == Other(message)


@pytest.mark.parametrize(
    ("message", "form"),
    [
        ({"type": "audio_end", "duration": 1.5, "done": True}, "audio_end"),
        ({"type": "AUDIO_END"}, "audio_end"),
        ({"type": "flushed"}, "flushed"),
        ({"type": "Flushed", "sequence_id": 0}, "flushed"),
        ({"type": "done"}, "done"),
        ({"isFinal": True}, "audio_end"),
        *(
            ({"type": "event", "data": {"event": name}}, "audio_end")
            for name in ("complete", "completed", "done", "end", "final")
        ),
        ({"type": "Event", "data": {"event_type": "FINAL"}}, "audio_end"),
        ({"type": "event", "event_type": "final"}, "audio_end"),
    ],
)
def test_every_form_of_a_turns_end_is_understood(message: dict[str, Any], form: str) -> None:
    assert tts(message) == Terminal(form, message)


@pytest.mark.parametrize("name", ["error", "failed", "FAILED"])
def test_an_event_can_be_a_failure(name: str) -> None:
    found = tts({"type": "event", "data": {"event": name, "message": "no voice", "code": 400}})

    assert isinstance(found, UpstreamError)
    assert (found.error.code, found.error.message) == ("config_error", "no voice")


@pytest.mark.parametrize(
    "message", [{"type": "event"}, {"type": "event", "data": 1}, {"type": "event", "data": {"event": ["x"]}}]
)
def test_any_other_event_is_just_another_message(message: dict[str, Any]) -> None:
    assert tts(message) == Other(message)


def test_cleared() -> None:
    assert tts({"type": "Cleared", "x": 1}) == Cleared({"type": "Cleared", "x": 1})


@pytest.mark.parametrize("kind", ["segment_start", "segment_end", "Metadata", "Open", "control_ack", "Warning", "x"])
def test_other_tts_messages_stay_as_they_are(kind: str) -> None:
    assert tts({"type": kind, "segment_id": "1"}) == Other({"type": kind, "segment_id": "1"})
