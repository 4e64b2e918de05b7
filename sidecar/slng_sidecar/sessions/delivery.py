"""Decodes compressed audio on its way to the client."""

from __future__ import annotations

from collections.abc import Callable

from slng_sidecar.audio.codecs import is_installed
from slng_sidecar.audio.stream_decoder import DECODABLE, StreamDecoder
from slng_sidecar.protocol.commands import DecodeAudio, EndDecoding, StartDecoding
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import dump


def decodable_encodings() -> frozenset[str]:
    """Return the compressed encodings that can be decoded here; none without the ``codecs`` extra."""
    return frozenset(DECODABLE) if is_installed() else frozenset()


class AudioDelivery:
    """Decodes one context after another and passes on what the client is to be sent.

    Mutable: ``_decoder``, of the present context; ``_encoding`` and ``_rate``, which are its; ``_delivered``, the bytes
    that it yielded.
    """

    def __init__(self, send: Callable[[str | bytes], None]) -> None:
        """Create a delivery.

        Args:
            send: queues a message for the client.
        """
        self._send = send
        self._decoder: StreamDecoder | None = None
        self._encoding = ""
        self._rate = 0
        self._delivered = 0

    def start(self, command: StartDecoding) -> None:
        """Start the audio of a context."""
        self._encoding, self._rate = command.encoding, command.sample_rate
        self._decoder = StreamDecoder(command.encoding, command.sample_rate)
        self._delivered = 0

    def decode(self, command: DecodeAudio) -> None:
        """Decode some audio of the context."""
        assert self._decoder is not None
        self._deliver(self._decoder.feed(command.data))

    def end(self, command: EndDecoding) -> None:
        """End the audio of the context and send its ``audio_end``."""
        assert self._decoder is not None
        message = command.message
        if command.completed:
            self._deliver(self._decoder.end())
            if not self._delivered:
                text = f"What upstream sent as {self._encoding} could not be decoded."
                context_id = message["context_id"]
                error = GatewayError(ErrorCode.UNSUPPORTED_AUDIO_FORMAT, text, fatal=False, context_id=context_id)
                self._send(dump(error.as_message()))
                message = {**message, "reason": "failed"}
        self._decoder = None
        self._send(dump({**message, "duration_ms": round(self._delivered * 1000 / (2 * self._rate))}))

    def _deliver(self, pcm: bytes) -> None:
        if pcm:
            self._delivered += len(pcm)
            self._send(pcm)
