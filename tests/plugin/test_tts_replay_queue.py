"""What a TTS connection says, and says again."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from pipecat_slng_sidecar.stt_replay_queue import Voicing
from pipecat_slng_sidecar.tts_replay_queue import SpeechScript, Utterance

ONE = Voicing("m", {"type": "init", "voice": "one"})
TWO = Voicing("m", {"type": "init", "voice": "two"})


def said(script: SpeechScript) -> list[str]:
    """Take all that is to be sent, in short."""
    found = []
    while (text := script.next()) is not None:
        message = json.loads(text)
        found.append(
            " ".join([message["type"], *(message[name] for name in ("context_id", "text") if name in message)])
        )
    return found


def spoken(script: SpeechScript, context_id: str, *texts: str, flush: bool = True) -> Utterance:
    utterance = script.begin(context_id)
    for text in texts:
        script.say(utterance, text)
    if flush:
        script.flush(utterance)
    return utterance


def test_everything_is_sent_once_and_in_its_order() -> None:
    script = SpeechScript(ONE)
    assert script.opening() == ("m", ONE.init)
    spoken(script, "a", "x", "y")
    script.update({"type": "update"}, TWO)
    spoken(script, "b", "z", flush=False)
    script.end()
    assert said(script) == ["text a x", "text a y", "flush a", "update", "text b z", "close"]
    assert said(script) == []


def test_a_second_utterance_of_a_context_has_an_id_of_its_own() -> None:
    script = SpeechScript(ONE)
    script.ended(spoken(script, "a", "x"))
    assert spoken(script, "a", "y").id == "a#2"
    script.forget("a")
    assert spoken(script, "a", "z").id == "a"


def test_what_was_not_heard_goes_again_with_the_settings_that_it_had() -> None:
    script = SpeechScript(ONE)
    script.opening()
    spoken(script, "a", "x")
    script.update({"type": "update"}, TWO)
    spoken(script, "b", "y")
    said(script)
    assert script.take_broken() == []
    assert script.opening() == ("m", ONE.init)
    assert said(script) == ["text a x", "flush a", "update", "text b y", "flush b"]


def test_what_was_heard_in_part_does_not_go_again() -> None:
    script = SpeechScript(ONE)
    script.opening()
    first = spoken(script, "a", "x")
    script.update({"type": "update"}, TWO)
    spoken(script, "b", "y")
    said(script)
    script.sounds(first)
    assert script.take_broken() == [first]
    assert script.opening() == ("m", TWO.init)
    assert said(script) == ["text b y", "flush b"]


def test_what_went_out_twice_in_vain_is_given_up() -> None:
    script = SpeechScript(ONE)
    script.opening()
    utterance = spoken(script, "a", "x")
    said(script)
    assert script.take_broken() == []
    script.opening()
    said(script)
    assert script.take_broken() == [utterance]


def test_what_never_went_out_is_not_given_up_however_often_the_sidecar_is_away() -> None:
    script = SpeechScript(ONE)
    spoken(script, "a", "x")
    for _ in range(5):
        assert script.take_broken() == []
        script.opening()
    assert said(script) == ["text a x", "flush a"]


def test_a_clear_overtakes_what_waits_and_takes_its_own_texts_back() -> None:
    script = SpeechScript(ONE)
    script.opening()
    first = spoken(script, "a", "x", flush=False)
    said(script)
    script.say(first, "never sent")
    spoken(script, "b", "y")
    script.clear(first)
    assert said(script) == ["clear a", "text b y", "flush b"]


def test_nothing_is_said_of_an_utterance_that_was_cleared_before_it_went_out() -> None:
    script = SpeechScript(ONE)
    script.opening()
    script.clear(spoken(script, "a", "x"))
    assert said(script) == []


def test_giving_up_keeps_the_newest_settings() -> None:
    script = SpeechScript(ONE)
    utterance = spoken(script, "a", "x")
    script.update({"type": "update"}, TWO)
    assert script.take_all() == [utterance]
    assert script.opening() == ("m", TWO.init)
    assert said(script) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["text", "flush", "clear", "update", "send", "sound", "end", "break"]), st.integers(0, 3)
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_each_connection_hears_a_sound_conversation(steps: list[tuple[str, int]]) -> None:
    script = SpeechScript(ONE)
    script.opening()
    utterances: dict[int, Utterance] = {}
    voices = 1
    flushed: set[str] = set()
    here: set[str] = set()
    for step, number in steps:
        utterance = utterances.get(number)
        if step == "text" and (utterance is None or not utterance.flushed):
            utterance = utterances.setdefault(number, script.begin(f"c{number}"))
            script.say(utterance, "x")
        elif step == "flush" and utterance:
            script.flush(utterance)
        elif step == "clear" and utterance:
            script.clear(utterances.pop(number))
        elif step == "update":
            voices += 1
            script.update({"type": "update"}, Voicing("m", {"voice": str(voices)}))
        elif step == "send":
            for each in said(script):
                kind, _, rest = each.partition(" ")
                context_id = rest.split(" ")[0]
                if kind == "text":
                    assert context_id not in flushed
                    here.add(context_id)
                elif kind == "flush":
                    assert context_id in here
                    flushed.add(context_id)
                elif kind == "clear":
                    assert context_id in here
        elif step == "sound" and utterance and utterance.sent and script.live(utterance.id):
            script.sounds(utterance)
        elif step == "end" and utterance and utterance.flushed and utterance.sent:
            script.ended(utterances.pop(number))
        elif step == "break":
            broken = {each.id for each in script.take_broken()}
            utterances = {key: each for key, each in utterances.items() if each.id not in broken}
            script.opening()
            here, flushed = set(), set()
    # What lives and is silent is said in the end.
    script.take_broken()
    script.opening()
    silent = {each.id for each in utterances.values() if script.live(each.id)}
    assert {each.split(" ")[1] for each in said(script) if each.startswith("text")} == silent
