"""``say`` and ``transcribe``, which use a running sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from slng_sidecar.audio.wav import wav_header
from slng_sidecar.cli.address import SidecarAddress
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import dump, parse_object, type_of

_CHUNK_SECONDS = 0.02
# Longer than the deadline that a sidecar has for its close.
_LAST_WORDS_SECONDS = 30.0


class SpeechFailed(Exception):
    """Raised when a command fails. The text says why and what to do."""


async def say(
    address: SidecarAddress, text: str, model: str, voice: str | None, config: dict[str, Any], out: Path
) -> float:
    """Synthesize a text and write it to a WAV file, or to standard output if ``out`` is ``-``.

    Returns:
        The seconds of audio.

    Raises:
        SpeechFailed: it could not be said. The text is the sidecar's own, if it sent one.
    """
    body: dict[str, Any] = {"text": text, "config": config}
    if voice:
        body["voice"] = voice
    path = f"/v1/bridges/unmute/tts/{model}"
    with _open_output(out) as file, _progress(bytes_known=False) as advance:
        size = 0
        try:
            async with (
                address.http(timeout=120) as http,
                http.stream("POST", path, json=body, headers={"Accept": "audio/pcm"}) as reply,
            ):
                if reply.status_code != 200:
                    raise SpeechFailed(_error_text(await reply.aread(), reply.status_code))
                rate = int(reply.headers["X-Sample-Rate"])
                file.write(wav_header(rate))
                async for chunk in reply.aiter_bytes():
                    file.write(chunk)
                    size += len(chunk)
                    advance(len(chunk))
        except httpx.ConnectError:
            raise SpeechFailed(_nobody_there(address)) from None
        except httpx.HTTPError as error:
            whole = f" after {size / rate / 2:.1f} s of audio, so the file is incomplete" if size else ""
            raise SpeechFailed(f"The sidecar's answer broke off{whole} ({type(error).__name__}).") from None
        if file.seekable():
            file.seek(0)
            file.write(wav_header(rate, data_size=size))
    return size / rate / 2


async def transcribe(
    address: SidecarAddress,
    source: Path,
    model: str,
    language: str | None,
    pace: float,
    on_final: Callable[[str], None],
) -> None:
    """Send a WAV file, and call ``on_final`` with each final transcript that is not empty.

    Args:
        pace: the speed of sending in multiples of real time; 0 for as fast as the sidecar accepts it.

    Raises:
        SpeechFailed: it could not be transcribed. The text is the sidecar's own, if it sent one.
    """
    with _open_wav(source) as wav:
        rate, frames = wav.getframerate(), wav.getnframes()
        config: dict[str, Any] = {"sample_rate": rate, "encoding": "linear16", "enable_partials": False}
        if language:
            config["language"] = language
        try:
            socket = await address.websocket(f"/v1/bridges/unmute/stt/{model}")
        except InvalidStatus as error:
            raise SpeechFailed(_error_text(bytes(error.response.body or b""), error.response.status_code)) from None
        except (OSError, InvalidHandshake):
            raise SpeechFailed(_nobody_there(address)) from None
        try:
            async with asyncio.TaskGroup() as tasks:
                await socket.send(dump({"type": "init", "config": config}))
                receiving = tasks.create_task(_receive(socket, on_final))
                with _progress(total=frames * 2) as advance:
                    await _send_sound(socket, wav, rate, pace, advance)
                await socket.send(dump({"type": "finalize", "id": "end"}))
                await socket.send(dump({"type": "close"}))
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    await receiving
        except* TimeoutError:
            raise SpeechFailed(f"The last words did not come within {_LAST_WORDS_SECONDS:g} s.") from None
        except* ConnectionClosed as group:
            raise SpeechFailed(f"The sidecar closed the connection early ({group.exceptions[0]}).") from None
        except* SpeechFailed as group:
            raise group.exceptions[0] from None
        finally:
            await socket.close()


async def _send_sound(
    socket: ClientConnection, wav: wave.Wave_read, rate: int, pace: float, advance: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    step = max(1, round(rate * _CHUNK_SECONDS))
    start, sent = loop.time(), 0
    while data := wav.readframes(step):
        await socket.send(data)
        sent += step
        advance(len(data))
        if pace > 0:
            await asyncio.sleep(start + sent / rate / pace - loop.time())


async def _receive(socket: ClientConnection, on_final: Callable[[str], None]) -> None:
    """Handle messages until the sidecar closes."""
    async for data in socket:
        if isinstance(data, bytes):
            continue
        message = parse_object(data)
        match type_of(message):
            case "final_transcript" if message.get("transcript"):
                on_final(str(message["transcript"]))
            case "error" if message.get("fatal"):
                raise SpeechFailed(f"{message.get('code')}: {message.get('message')}")
            case "error":
                _note(f"{message.get('code')}: {message.get('message')}")
            case "transcript_dropped" if message.get("final"):
                _note(
                    f"Dropped, because its confidence {message['confidence']:.2f} is below {message['threshold']:g}: "
                    f"{message['transcript']}"
                )
            case "status" if message.get("state") == "reconnecting":
                _note(f"Upstream is lost ({message.get('cause')}); reconnecting.")
            case "status" if message.get("state") == "connected":
                _note(
                    f"Upstream is back after {message.get('gap_ms')} ms; {message.get('replayed_ms')} ms of audio were "
                    f"sent again, and {message.get('dropped_ms')} ms are lost."
                )


@contextlib.contextmanager
def _open_wav(source: Path) -> Iterator[wave.Wave_read]:
    try:
        wav = wave.open(str(source), "rb")  # noqa: SIM115 # opening and reading it have different error messages
    except FileNotFoundError:
        raise SpeechFailed(f"There is no file {source}.") from None
    except OSError as error:
        raise SpeechFailed(f"{source} cannot be read: {error.strerror}.") from None
    except (wave.Error, EOFError):
        raise SpeechFailed(f"{source} is not a PCM WAV file. {_HOW_TO_CONVERT.format(source)}") from None
    with wav:
        if wav.getsampwidth() != 2 or wav.getnchannels() != 1:
            raise SpeechFailed(
                f"{source} has {wav.getnchannels()} channels of {8 * wav.getsampwidth()} bits; one of 16 is needed. "
                + _HOW_TO_CONVERT.format(source)
            )
        if not wav.getnframes():
            raise SpeechFailed(f"{source} holds no sound.")
        yield wav


_HOW_TO_CONVERT = "Convert it: sox {} -b 16 -c 1 -r 16000 out.wav"


@contextlib.contextmanager
def _open_output(out: Path) -> Iterator[BinaryIO]:
    """Open standard output, or a file that gets its name only once it is complete."""
    if str(out) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        part = out.with_name(out.name + ".part")
        file = part.open("wb")
    except OSError as error:
        raise SpeechFailed(f"{out} cannot be written: {error.strerror}.") from None
    try:
        with file:
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(total: int | None = None, *, bytes_known: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        (TextColumn("{task.percentage:3.0f} %"), BarColumn(), TimeElapsedColumn())
        if bytes_known
        else (SpinnerColumn(), DownloadColumn(), TimeElapsedColumn())
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda amount: progress.advance(task, amount)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _error_text(body: bytes, status: int) -> str:
    try:
        error = parse_object(body.decode(errors="replace"))["error"]
        return f"{error['code']}: {error['message']}"
    except (GatewayError, KeyError, TypeError):
        return f"That address answered HTTP {status}, but it is not a slng-sidecar."


def _nobody_there(address: SidecarAddress) -> str:
    return f"No sidecar answers at {address}. Start one with 'make run' or 'slng-sidecar serve', or give --url."
