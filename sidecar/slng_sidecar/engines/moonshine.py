"""Recognition of English speech with the model ``tiny-en`` of Moonshine (arXiv 2410.15608).

The package ``moonshine-voice`` holds the model in versions 0.0.48 to 0.0.73. Its own library returns neither
probabilities nor times, so this module runs the model itself: the probabilities of the tokens are what a confidence
needs, and PocketSphinx aligns the words to the sound.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slng_sidecar.engines import pocketsphinx
from slng_sidecar.engines.interface import RecognizedWord, SpeechSegment

NAME = "moonshine"
TITLE = "Moonshine"

RATE = 16_000
"""The sample rate of the model, in Hz."""

_START, _END = 1, 2  # tokens
_FIRST_TEXT_TOKEN = 3
# The model's authors limit the tokens to this many a second, because it can repeat itself without end in noise.
_TOKENS_A_SECOND = 6.5
_SHORTEST_SECONDS = 0.5
_KEY_VALUE_SHAPE = (1, 8, 0, 36)
_WORD_START = "▁"

# The confidence is a logistic function of the mean logarithm of the tokens' probabilities and of the fit of the
# alignment. The weights separate 180 sentences in three voices from noise, music and pairs of voices that overlap;
# the tests of this module repeat that on sounds of each kind.
_INTERCEPT, _PROBABILITY_WEIGHT, _FIT_WEIGHT = 6.5, 12.0, 2.0
# The fit where there is no alignment: that of the worst alignments of noise.
_NO_FIT = -13.0


@cache
def installed() -> bool:
    """Return whether the model, what runs it and what aligns its words are installed."""
    return all(find_spec(name) for name in ("numpy", "onnxruntime", "soxr")) and (
        pocketsphinx.installed() and (_folder() / "tokenizer.bin").is_file()
    )


def languages() -> frozenset[str]:
    """Return English, the language of the model in the package."""
    return frozenset({"en"})


def load() -> None:
    """Load the model and the aligner, which takes about half a second."""
    recognize(SpeechSegment(bytes(2 * RATE), RATE, 0))
    pocketsphinx.align(bytes(2 * RATE), ["ready"])


def recognize(segment: SpeechSegment) -> list[RecognizedWord]:
    """Return the words of one segment, with capitals and punctuation. All have the same confidence."""
    import numpy as np
    import soxr

    samples = np.frombuffer(segment.pcm, np.int16)
    if segment.rate != RATE:
        samples = soxr.resample(samples, segment.rate, RATE)
    shortest = round(_SHORTEST_SECONDS * RATE)
    if len(samples) < shortest:
        samples = np.pad(samples, (0, shortest - len(samples)))
    decoded = _model().decode(samples.astype(np.float32) / 32_768)
    words = _words(decoded.text)
    if not words:
        return []
    alignment = pocketsphinx.align(samples.tobytes(), words)
    times = alignment.times if alignment else _spread(words, len(samples) / RATE)
    confidence = _confidence(decoded.log_probability, alignment.fit if alignment else _NO_FIT)
    first = segment.start_ms / 1000
    return [
        RecognizedWord(word, round(first + start, 3), round(first + end, 3), confidence)
        for word, (start, end) in zip(words, times, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A decoded segment, with the mean of the logarithms of its tokens' probabilities."""

    text: str
    log_probability: float


class _Model:
    """The encoder, the decoder and the tokens of the model."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Two threads take three quarters of the time of one; more gain little on so small a model. They must not keep a
        # processor busy while they wait.
        options.intra_op_num_threads = min(2, os.cpu_count() or 1)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._encoder = onnxruntime.InferenceSession(folder / "encoder_model.ort", options)
        self._decoder = onnxruntime.InferenceSession(folder / "decoder_model_merged.ort", options)
        self._past = [name.name for name in self._decoder.get_inputs() if name.name.startswith("past_key_values")]
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        self._tokens = list(_tokens((folder / "tokenizer.bin").read_bytes()))

    def decode(self, samples: Any) -> _Decoded:
        """Decode samples from -1 to 1 at ``RATE`` Hz, and take the most probable token at each step."""
        import numpy as np

        audio = samples[np.newaxis]
        mask = np.ones(audio.shape, np.int64)
        (encoded,) = self._encoder.run(None, {"input_values": audio, "attention_mask": mask})
        inputs: dict[str, Any] = {
            "encoder_hidden_states": encoded,
            "encoder_attention_mask": mask,  # the decoder takes one value of it for each encoded frame
            "use_cache_branch": np.array([False]),
            **{name: np.zeros(_KEY_VALUE_SHAPE, np.float32) for name in self._past},
        }
        tokens, log_probabilities = [_START], []
        for step in range(math.ceil(len(samples) / RATE * _TOKENS_A_SECOND)):
            inputs["input_ids"] = np.array([tokens[-1:]], np.int64)
            logits, *present = self._decoder.run(None, inputs)
            scores = logits[0, -1].astype(np.float64)
            best = int(scores.argmax())
            log_probabilities.append(-math.log(np.exp(scores - scores[best]).sum()))
            tokens.append(best)
            if best == _END:
                break
            for name, value in zip(self._outputs[1:], present, strict=True):
                # The encoder's part does not change after the first step, and later steps return it empty.
                if step == 0 or ".decoder." in name:
                    inputs[name.replace("present", "past_key_values")] = value
            inputs["use_cache_branch"] = np.array([True])
        pieces = (self._tokens[token] for token in tokens if token >= _FIRST_TEXT_TOKEN)
        text = b"".join(pieces).decode(errors="replace").replace(_WORD_START, " ")
        return _Decoded(text, sum(log_probabilities) / len(log_probabilities))


def _tokens(data: bytes) -> Iterator[bytes]:
    """Parse the file of tokens. Each has its length before it: one byte, or from 128 on two, the lower first."""
    at = 0
    while at < len(data):
        length = data[at]
        at += 1
        if length >= 128:
            length += 128 * (data[at] - 1)
            at += 1
        yield data[at : at + length]
        at += length


def _words(text: str) -> list[str]:
    """Return the words of a text. What has no letter or digit belongs to the word before it."""
    words: list[str] = []
    for word in text.split():
        if any(map(str.isalnum, word)):
            words.append(word)
        elif words:
            words[-1] += word
    return words


def _spread(words: Sequence[str], seconds: float) -> list[tuple[float, float]]:
    """Return times for words that could not be aligned: by their lengths, over all of the audio."""
    each = seconds / sum(map(len, words))
    ends, end = [], 0.0
    for word in words:
        end += each * len(word)
        ends.append(end)
    return list(zip([0.0, *ends], ends, strict=False))


def _confidence(log_probability: float, fit: float) -> float:
    score = _INTERCEPT + _PROBABILITY_WEIGHT * log_probability + _FIT_WEIGHT * fit
    # Never 0, which means no confidence at all to some clients.
    return round(max(0.001, 1 / (1 + math.exp(-score))), 3)


def _folder() -> Path:
    spec = find_spec("moonshine_voice")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0] if places else "", "assets", "tiny-en")


@cache
def _model() -> _Model:
    return _Model(_folder())
