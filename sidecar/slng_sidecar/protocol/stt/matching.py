"""What a final means: which finalize it answers and which audio it covers. These functions decide and change nothing.

Upstream does not say which audio a final covers. The rule is: with word times, up to the end of its last word;
without, if it answers a finalize and cannot be the late answer to an older one, up to that finalize; otherwise, nothing
that was sent less than ``final_lag`` before its arrival. In doubt audio counts as not covered and is replayed after a
drop (``docs/explain/guarantees.md``).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from slng_sidecar.protocol.messages import Transcript
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.segment import LONGEST_WORD_MS, Finalize, Segment

PENDING_SPEECH_MS = 100
"""This much sound that is loud enough for speech counts as a word that is not transcribed yet."""

# A pause of this length may have made upstream end an utterance, whose final is then still to come.
_ENDPOINT_MS = 200


class HeldOutcome(enum.Enum):
    """What becomes of the final that a segment held, now that another one came."""

    NONE = "none"  # there was none
    ANSWERS = "answers"  # it is the answer to its finalize, and the new final is for later audio
    CONFIRMED = "confirmed"  # it is the answer, and the new final only says that nothing follows
    CONTINUED = "continued"  # it was not the last before its finalize; the new one may be the answer


@dataclass(frozen=True, slots=True)
class FinalMatch:
    """The decision about one final.

    Attributes:
        answered: the finalize that it answers, or may answer.
        passed: older finalizes for which there was nothing to transcribe.
        is_sure: whether no other final can be the answer.
        held: what becomes of the final that was held.
        covered: the offset up to which audio is covered from now on.
        is_exact: whether no delivered word lies after ``covered``.
    """

    answered: Finalize | None
    passed: tuple[Finalize, ...]
    is_sure: bool
    held: HeldOutcome
    covered: int
    is_exact: bool


def match_final(
    message: Transcript, segment: Segment, finalizes: Collection[Finalize], buffer: ReplayBuffer, now: float, lag: float
) -> FinalMatch:
    """Decide what a final of a segment means.

    Args:
        finalizes: those that are not settled, oldest first.
        lag: ``SttOptions.final_lag``.
    """
    answered, passed, is_sure = _answered_by(message, segment, finalizes, buffer)
    outcome = HeldOutcome.NONE
    if (held := segment.transcripts.held) is not None:
        if held.finalize in passed:
            outcome = HeldOutcome.ANSWERS
            passed.remove(held.finalize)
        elif answered is held.finalize and not message.text.strip():
            outcome = HeldOutcome.CONFIRMED
        else:
            outcome = HeldOutcome.CONTINUED
            answered = answered or held.finalize
    # If the time of an older finalize ran out, this may be its late answer, which covers no audio after it.
    oldest = next((finalize for finalize in finalizes if finalize.sent_on == segment.link.number), answered)
    certain = answered if answered is oldest else None
    covered, is_exact = _coverage(message, segment, certain, buffer, now - lag)
    return FinalMatch(answered, tuple(passed), is_sure, outcome, covered, is_exact)


def _answered_by(
    message: Transcript, segment: Segment, finalizes: Iterable[Finalize], buffer: ReplayBuffer
) -> tuple[Finalize | None, list[Finalize], bool]:
    """Return the finalize that a final answers, the older ones that it passes over, and whether that is sure.

    It is not sure if there is sound between the final's last word and the finalize that may be speech: then another
    final may follow and be the answer.
    """
    mine = [finalize for finalize in finalizes if finalize.sent_on == segment.link.number]
    if not mine or message.from_finalize is False:
        return None, [], True
    waiting = [finalize for finalize in mine if not finalize.expired]
    span = _word_span(message, segment, buffer)
    if span is None:
        if not message.text.strip() and segment.transcripts.is_partial_pending and not message.from_finalize:
            return None, [], True
        # Upstream answers in order, so a marked answer without words may be the late one to a finalize whose time ran
        # out. Words are always delivered as the answer that the client waits for.
        is_late = message.from_finalize and not message.text.strip()
        return (mine if is_late else waiting or mine)[0], [], True
    passed: list[Finalize] = []
    for finalize in mine:
        if span[0] >= finalize.offset:
            passed.append(finalize)
        else:
            pending = buffer.speech_ms(span[1], finalize.offset) >= PENDING_SPEECH_MS
            return finalize, passed, bool(message.from_finalize) or not pending
    return None, passed, True


def _coverage(
    message: Transcript, segment: Segment, answered: Finalize | None, buffer: ReplayBuffer, sent_before: float
) -> tuple[int, bool]:
    """Return the offset up to which audio is covered with this final, and whether that is exact."""
    transcripts, sent = segment.transcripts, segment.sent
    span = _word_span(message, segment, buffer)
    has_text = bool(message.text.strip())
    if span is not None:
        offset, is_exact = span[1], True
    elif (
        answered is not None
        and _covers_finalize(message, segment, answered, buffer)
        # A finalize may come within a word, which is then not among those that it drew.
        and (pause := buffer.silence_before(answered.offset, LONGEST_WORD_MS)) is not None
    ):
        offset, is_exact = pause, True
    elif has_text:
        offset, is_exact = sent.end_at(sent_before), False
    else:
        return transcripts.covered, transcripts.is_exact
    return min(max(offset, transcripts.covered), sent.end), is_exact


def _covers_finalize(message: Transcript, segment: Segment, answered: Finalize, buffer: ReplayBuffer) -> bool:
    """Return whether an answer without word times can be trusted to cover all audio up to its finalize."""
    if message.from_finalize or buffer.compressed:
        return True
    covered = segment.transcripts.covered
    if not message.text.strip():
        return buffer.speech_ms(covered, answered.offset) < PENDING_SPEECH_MS
    # If speech paused before the finalize, this may be the final of what was said before the pause.
    return not buffer.has_pause(covered, answered.offset, _ENDPOINT_MS)


def _word_span(message: Transcript, segment: Segment, buffer: ReplayBuffer) -> tuple[int, int] | None:
    """Return the offsets at which a transcript's words begin and end, if it has word times."""
    if not message.words:
        return None
    began = buffer.ms(segment.sent.start)
    first, last = message.words[0].start * 1000, max(word.end for word in message.words) * 1000
    return buffer.offset_at(began + first), min(segment.sent.end, buffer.offset_at(began + last))
