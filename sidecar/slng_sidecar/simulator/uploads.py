"""Reads the audio files that are sent to the STT bridge by HTTP."""

from __future__ import annotations

import base64
import binascii
import wave
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import parse_object


def parse_upload(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Parse a form, JSON with base64, or raw audio, and return the fields and the audio.

    Raises:
        ValueError: the upload is malformed. The text says how.
    """
    kind, _, parameters = content_type.partition(";")
    match kind.strip().lower():
        case "multipart/form-data":
            fields = dict(_multipart(parameters, body))
            audio = fields.pop("audio", None)
            if audio is None:
                raise ValueError("the part 'audio' is missing")
            return {name: value.decode(errors="replace") for name, value in fields.items()}, audio
        case "application/json":
            try:
                given = parse_object(body.decode())
                return given, base64.b64decode(given.pop("audio"), validate=True)
            except (GatewayError, UnicodeDecodeError, KeyError, TypeError, binascii.Error):
                raise ValueError("'audio' takes base64; the simulator fetches no 'url'") from None
    return {}, body


def samples_of(audio: bytes, fields: dict[str, Any]) -> tuple[int | None, bytes]:
    """Return the sample rate and the samples. The rate is None for compressed audio.

    Raises:
        ValueError: the simulator does not accept this audio. The text says why.
    """
    if audio[:4] == b"RIFF":
        try:
            with wave.open(BytesIO(audio)) as file:
                if file.getsampwidth() != 2 or file.getnchannels() != 1:
                    raise ValueError("the simulator accepts 16-bit mono WAV only")
                return file.getframerate(), file.readframes(file.getnframes())
        except (wave.Error, EOFError):
            raise ValueError("that WAV cannot be read") from None
    if str(fields.get("encoding", "linear16")) != "linear16":
        return None, audio
    try:
        rate = int(fields.get("sample_rate", 16_000))
    except (TypeError, ValueError):
        raise ValueError("sample_rate takes a number") from None
    if not 8000 <= rate <= 48_000:
        raise ValueError("sample_rate is 8000 to 48000")
    return rate, audio


def _multipart(parameters: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    boundary = next((p.partition("=")[2] for p in parameters.split(";") if p.strip().startswith("boundary=")), "")
    mark = b"\r\n--" + boundary.strip().strip('"').encode()
    for part in (b"\r\n" + body).split(mark)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        for line in head.decode(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-disposition" and 'name="' in value:
                yield value.partition(' name="')[2].partition('"')[0], content
