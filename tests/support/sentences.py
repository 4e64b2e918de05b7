"""Ordinary English sentences, and how many of their words were understood."""

from __future__ import annotations

import difflib
import functools
import itertools
import random
import re
from pathlib import Path

import chatterbot_corpus
import yaml
from slng_sidecar.engines import pocketsphinx

# The other files are about names and terms of one field, which nobody spells by ear.
_FILES = ("conversations", "emotion", "food", "gossip", "greetings", "health", "humor", "money", "psychology")
_SENTENCE = re.compile(r"[A-Z][a-z' ,]+[.?!]")


@functools.cache
def sentences() -> tuple[str, ...]:
    """Return the sentences of ChatterBot's corpus that have 4 to 16 words, all of them in a pronouncing dictionary.

    So there are no names, numbers or typing errors among them.
    """
    folder = Path(chatterbot_corpus.__file__).parent / "data" / "english"
    found = {
        line
        for name in _FILES
        for conversation in yaml.safe_load((folder / f"{name}.yml").read_text())["conversations"]
        for line in map(str, conversation)
        if _SENTENCE.fullmatch(line) and 4 <= len(line.split()) <= 16
    }
    known = pocketsphinx._aligner().lookup_word
    return tuple(sorted(line for line in found if all(known(word) for word in words_of(line))))


def drawn(seed: int, count: int) -> list[str]:
    """Return sentences that a seed chooses."""
    return random.Random(seed).sample(sentences(), count)


def words_of(text: str) -> list[str]:
    """Return the words of a text without capitals and punctuation, but with apostrophes and with digits as they are."""
    return re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("\u2019", "'")).split()


def wrong_words(said: str, understood: str) -> int:
    """Return how many words of a text were changed, left out or added. A changed word counts once."""
    matcher = difflib.SequenceMatcher(None, words_of(said), words_of(understood), autojunk=False)
    return sum(max(b - a, d - c) for kind, a, b, c, d in matcher.get_opcodes() if kind != "equal")


def share_right(pairs: list[tuple[str, str]]) -> float:
    """Return the share of the words that were understood, of pairs of what was said and what was understood."""
    wrong = sum(itertools.starmap(wrong_words, pairs))
    return 1 - wrong / sum(len(words_of(said)) for said, _ in pairs)
