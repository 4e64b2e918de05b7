from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.messages import Transcript
from slng_sidecar.protocol.stt.dedup import ReplayDeduplicator, without_first_words


def replayed(delivered: str) -> ReplayDeduplicator:
    """Return a deduplicator that delivered some words before its connection was replaced."""
    dedup = ReplayDeduplicator()
    dedup.remove_repeats(final(delivered))
    dedup.restart(replays=True)
    return dedup


def final(text: str) -> Transcript:
    return Transcript(True, text, None, (), None, {"transcript": text})


def left(dedup: ReplayDeduplicator, text: str) -> str:
    return dedup.remove_repeats(final(text))[0].text


@pytest.mark.parametrize(
    ("delivered", "finals", "new"),
    [
        ("a b c", ["c d"], ["d"]),
        ("a b c", ["b c", "d"], ["", "d"]),
        ("a b c", ["b", "c d", "c d"], ["", "d", "c d"]),
        ("a b c", ["d"], ["d"]),
        ("a b c", ["x b c d"], ["d"]),  # the replay began within a word
        ("a b c", ["x y c d"], ["x y c d"]),
        ("A, b! C?", ["b c. D"], ["D"]),
        ("", ["a"], ["a"]),
        ("a b c", ["c", "c"], ["", "c"]),
        ("no no", ["no no yes"], ["yes"]),
        ("a b a b", ["a b c"], ["c"]),
    ],
)
def test_repeated_words_are_removed_once(delivered: str, finals: list[str], new: list[str]) -> None:
    dedup = replayed(delivered)

    assert [left(dedup, text) for text in finals] == new


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12, unique=True), st.integers(0, 12), st.integers(1, 4))
def test_a_replay_that_begins_at_any_delivered_word_leaves_only_new_words(
    delivered: list[str], at: int, size: int
) -> None:
    words = [*delivered[min(at, len(delivered)) :], "new", "words"]
    dedup = replayed(" ".join(delivered))
    finals = [" ".join(words[i : i + size]) for i in range(0, len(words), size)]

    kept = [left(dedup, text) for text in finals]

    assert " ".join(kept).split() == ["new", "words"]


def test_without_a_replay_nothing_is_removed() -> None:
    dedup = replayed("a b")
    dedup.restart(replays=False)

    assert left(dedup, "a b") == "a b"


def test_without_first_words_keeps_the_rest_as_it_is() -> None:
    assert without_first_words("one  two, three", 1) == "two, three"
    assert without_first_words("one", 1) == ""
    assert without_first_words(" one two ", 0).strip() == "one two"
