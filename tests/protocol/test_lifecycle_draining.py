"""A session of a sidecar that is draining ends at the next moment at which nothing is cut."""

from __future__ import annotations

from array import array
from typing import Any

from slng_sidecar.protocol.stt.dialects import ExtendedStt, PlainStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine
from slng_sidecar.protocol.tts.dialects import ExtendedTts, PlainTts
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine
from support.conversation import Conversation, Step, client_closed, dial, down, fatal, retire, up

SPOKEN = array("h", [8000, -8000] * 4000).tobytes()  # 500 ms
SECOND = bytes(32_000)
FINALIZE, CLOSE = {"type": "finalize"}, {"type": "close"}
STT_INIT: dict[str, Any] = {"type": "init", "config": {"sample_rate": 16_000}}
TTS_INIT: dict[str, Any] = {"type": "init", "config": {"encoding": "linear16", "sample_rate": 16_000}}


def draining(seconds: int) -> Step:
    return down({"type": "status", "state": "draining", "cause": "shutdown", "deadline_ms": seconds * 1000})


def transcribing(*, plain: bool = False) -> Conversation:
    talk = Conversation(SttMachine(SttOptions(model="a/b:c"), PlainStt() if plain else ExtendedStt("1", "1")))
    talk.client(STT_INIT)
    talk.ready()
    return talk


def speaking(*, plain: bool = False) -> Conversation:
    dialect = PlainTts("upstream") if plain else ExtendedTts("1", "1")
    talk = Conversation(TtsMachine(TtsOptions(model="a/b:c"), dialect))
    talk.client(TTS_INIT)
    talk.ready()
    return talk


def kinds(steps: list[Step]) -> list[str]:
    return [what[1]["type"] if what[0] == "down" and isinstance(what[1], dict) else what[0] for what in steps]


def test_a_quiet_stt_session_closes_after_its_last_transcripts() -> None:
    talk = transcribing()
    talk.client(SPOKEN, SECOND)
    assert talk.drain(30) == [draining(30), up(CLOSE)]
    assert kinds(talk.upstream({"type": "final_transcript", "transcript": "bye"})) == ["final_transcript"]
    assert talk.lost(1000) == [client_closed(1012)]


def test_speech_is_transcribed_to_its_end_first() -> None:
    talk = transcribing()
    talk.client(SPOKEN)
    assert talk.drain(30) == [draining(30)]
    talk.client(SPOKEN)
    assert up(CLOSE) in talk.client(SECOND)


def test_an_stt_session_ends_with_the_answer_to_a_finalize() -> None:
    talk = transcribing()
    talk.client(SPOKEN)
    talk.drain(30)
    talk.client({"type": "finalize", "id": "f"})
    steps = talk.upstream({"type": "final_transcript", "transcript": "done", "from_finalize": True})
    assert kinds(steps)[:2] == ["final_transcript", "finalized"]
    assert steps[-1] == up(CLOSE)


def test_a_client_that_sends_nothing_more_does_not_delay_the_drain() -> None:
    talk = transcribing()
    talk.client(SPOKEN)
    talk.drain(30)
    assert talk.wait(0.9) == []
    assert up(CLOSE) in talk.wait(0.2)


def test_an_stt_session_that_never_falls_silent_is_cut_off_at_the_deadline() -> None:
    talk = transcribing()
    talk.client(SPOKEN)
    talk.drain(2)
    for _ in range(3):
        talk.wait(0.5)
        talk.client(SPOKEN)
    assert talk.wait(1)[-2:] == [fatal("draining"), client_closed(1012)]


def test_a_plain_stt_client_learns_of_the_drain_by_the_close_alone() -> None:
    talk = transcribing(plain=True)
    assert talk.drain(30) == [up(CLOSE), retire(0), client_closed(1012)]


def test_a_tts_session_without_text_closes_at_once() -> None:
    talk = speaking()
    assert talk.drain(30) == [draining(30), retire(0), client_closed(1012)]


def test_speech_under_way_is_finished() -> None:
    talk = speaking()
    talk.client({"type": "text", "context_id": "a", "text": "x"}, {"type": "flush", "context_id": "a"})
    talk.upstream(SPOKEN)
    assert talk.drain(30) == [draining(30)]
    talk.upstream(SPOKEN)
    steps = talk.upstream({"type": "audio_end"})
    assert kinds(steps) == ["audio_end", "retire", "client_closed"]
    assert steps[-1] == client_closed(1012)


def test_a_context_that_is_not_flushed_yet_is_waited_for() -> None:
    talk = speaking()
    talk.client({"type": "text", "context_id": "a", "text": "x"})
    talk.drain(30)
    talk.wait(5)
    talk.client({"type": "text", "context_id": "a", "text": "y"}, {"type": "flush", "context_id": "a"})
    talk.upstream(SPOKEN)
    assert talk.upstream({"type": "audio_end"})[-1] == client_closed(1012)


def test_speech_that_does_not_end_in_time_fails_with_the_deadline() -> None:
    talk = speaking()
    talk.client({"type": "text", "context_id": "a", "text": "x"}, {"type": "flush", "context_id": "a"})
    talk.upstream(SPOKEN)
    talk.drain(2)
    steps = talk.wait(2)
    assert kinds(steps) == ["audio_end", "retire", "error", "client_closed"]
    assert steps[0][1]["reason"] == "failed"
    assert steps[-2:] == [fatal("draining"), client_closed(1012)]


def test_a_plain_turn_is_finished() -> None:
    talk = speaking(plain=True)
    talk.client({"type": "text", "text": "x"}, {"type": "flush"})
    talk.upstream(SPOKEN)
    assert talk.drain(30) == []
    assert talk.upstream({"type": "audio_end"})[-1] == client_closed(1012)


def test_a_session_opened_during_the_drain_can_still_speak() -> None:
    talk = Conversation(TtsMachine(TtsOptions(model="a/b:c"), ExtendedTts("1", "1")))
    assert talk.drain(30) == [draining(30)]
    assert talk.client(TTS_INIT) == [dial(0)]
    talk.ready()
    talk.wait(0.5)
    talk.client({"type": "text", "context_id": "a", "text": "bye"}, {"type": "flush", "context_id": "a"})
    talk.wait(2)
    talk.upstream(SPOKEN)
    assert talk.upstream({"type": "audio_end"})[-1] == client_closed(1012)


def test_a_session_opened_during_the_drain_without_text_ends_after_a_second() -> None:
    for machine, init in (
        (TtsMachine(TtsOptions(model="a/b:c"), ExtendedTts("1", "1")), TTS_INIT),
        (SttMachine(SttOptions(model="a/b:c"), ExtendedStt("1", "1")), STT_INIT),
    ):
        talk = Conversation(machine)
        talk.drain(30)
        talk.client(init)
        talk.ready()
        assert not talk.over
        assert talk.wait(1)[-1] == client_closed(1012)


def test_a_client_that_never_begins_is_cut_off_at_the_deadline_at_the_latest() -> None:
    for machine in (
        TtsMachine(TtsOptions(model="a/b:c"), ExtendedTts("1", "1")),
        SttMachine(SttOptions(model="a/b:c"), ExtendedStt("1", "1")),
    ):
        talk = Conversation(machine)
        talk.drain(2)
        assert talk.wait(2)[-1] == client_closed(1012)


def test_draining_twice_is_draining_once() -> None:
    talk = transcribing()
    talk.client(SPOKEN)
    assert talk.drain(30) == [draining(30)]
    assert talk.drain(30) == []
