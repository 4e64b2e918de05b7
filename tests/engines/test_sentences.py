"""A text is split into sentences, and long sentences into parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.engines.sentences import LONGEST, pieces_of


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("no end at all", ["no end at all"]),
        ("He said “Stop.” Then he left.", ["He said “Stop.”", "Then he left."]),
        ("Dr. Smith and J. K. Rowling met.", ["Dr. Smith and J. K. Rowling met."]),
        ("It costs 3.50 today. Buy it.", ["It costs 3.50 today.", "Buy it."]),
        ("a list\n\nof lines", ["a list", "of lines"]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("  ", []),
        ("", []),
    ],
)
def test_sentences_are_the_pieces(text: str, pieces: list[str]) -> None:
    assert list(pieces_of(text)) == pieces


def test_a_long_sentence_is_cut_at_its_last_pause() -> None:
    clause = "word " * 20 + "end, "
    pieces = list(pieces_of(clause * 4))
    assert all(piece.endswith("end,") for piece in pieces)
    assert len(pieces) > 1


def test_without_a_pause_the_cut_is_between_words_and_without_a_space_anywhere() -> None:
    assert set(pieces_of("word " * 100, 23)) == {"word word word word"}
    assert list(pieces_of("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5]


@given(st.text(st.sampled_from("aB. ,!\n"), max_size=400), st.integers(1, 40))
def test_no_character_is_lost_and_no_piece_is_too_long(text: str, longest: int) -> None:
    pieces = list(pieces_of(text, longest))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= longest for piece in pieces)


def test_ten_thousand_characters_are_pieces_of_the_longest_length() -> None:
    assert max(map(len, pieces_of("lorem ipsum " * 1000))) <= LONGEST
