"""Decodes a file of any kind to 16-bit mono PCM of one rate while it comes, in a thread with bounded queues."""

from __future__ import annotations

import asyncio
import errno
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Protocol, Self

from slng_sidecar.audio import codecs
from slng_sidecar.audio.companding import COMPANDED, expand
from slng_sidecar.audio.resampling import Resampler, can_resample, resampler
from slng_sidecar.audio.thread_pipes import Aborted, FromThread, ToThread
from slng_sidecar.audio.wav_reader import RATES, UnreadableAudio, WavReader

_INTAKE_BYTES = 262_144
_READ_BYTES = 65_536
_ENOUGH = 12
_PROBE_BYTES = 262_144
# The formats that FFmpeg may try. None of them can refer to other files or addresses.
_FORMATS = "wav,w64,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,aac,aiff,au,caf,amr,amrnb,amrwb,asf,wv,mpegts,mpeg"
_BAD_PACKETS = 1_000
_UPSTREAM_RATES = range(8_000, 48_001)


class TooLong(Exception):
    """Raised when a file has more audio than is accepted."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a file before its first byte.

    Attributes:
        encoding: of samples without a header, ``linear16``, ``mulaw`` or ``alaw``; None for a file with a header.
        sample_rate: of samples without a header, in Hz.
        whole: whether the whole file must have come before it is decoded.
    """

    encoding: str | None = None
    sample_rate: int = 16_000
    whole: bool = False


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Decoding:
    """Decodes one file, in a thread of its own while the block runs.

    ``put`` takes the file's bytes, ``finish`` ends them, and ``next`` returns audio. At most ``_INTAKE_BYTES`` of the
    file and half a second of audio wait in between.

    Attributes:
        sample_rate: of the audio, in Hz; known once ``next`` has returned some.
        samples: how many samples were returned so far.
    """

    def __init__(self, wanted_rate: int, max_seconds: float) -> None:
        self.sample_rate = wanted_rate
        self.samples = 0
        self._max_seconds = max_seconds
        self._intake = ToThread(_INTAKE_BYTES)
        self._sound = FromThread(wanted_rate)
        self._thread: threading.Thread | None = None
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._intake.abort()
        self._sound.abort()
        if self._thread is not None:
            await self._over.wait()
            self._thread.join()  # the thread has nothing left to do

    def start(self, expected: Expected) -> None:
        """Start to decode, with what is known of the file."""
        self._thread = threading.Thread(target=self._run, args=(expected,), name="decoding", daemon=True)
        self._thread.start()

    async def put(self, data: bytes) -> None:
        """Add bytes of the file, and wait while enough of them wait."""
        await self._intake.put(data)

    def finish(self) -> None:
        """Record that the file is complete."""
        self._intake.finish()

    async def next(self) -> bytes | None:
        """Wait for audio; None after the last.

        Raises:
            UnreadableAudio: the file cannot be decoded. The text says what it is.
            codecs.CodecsMissing: the file needs the ``codecs`` extra.
            TooLong: the file has more audio than is accepted.
            OSError: the disk is full, and the whole file must come before it is decoded.
        """
        data = await self._sound.take()
        if data is not None:
            self.samples += len(data) // 2
        return data

    # The thread

    def _run(self, expected: Expected) -> None:
        error: Exception | None = None
        try:
            if expected.whole:
                with tempfile.TemporaryFile() as spool:
                    self._decode(_spooled(spool, self._intake), expected)
            else:
                self._decode(self._intake, expected)
        except Aborted:
            pass
        except Exception as failure:  # the request's task reports it to the client, whatever it is
            error = failure
        finally:
            self._sound.end(error)
            # No more audio is read.
            self._intake.abort()
            self._loop.call_soon_threadsafe(self._over.set)

    def _decode(self, source: _Source, expected: Expected) -> None:
        head = b""
        while len(head) < _ENOUGH and (data := source.read(_READ_BYTES)):
            head += data
        source = _Joined(head, source)
        if not head:
            raise UnreadableAudio("an empty file")
        if head.startswith((b"RIFF", b"RF64")):
            self._riff(source)
        elif expected.encoding is not None:
            self._headerless(source, expected)
        else:
            self._compressed(head, source)

    def _riff(self, source: _Source) -> None:
        """Decode a WAV file without FFmpeg, if its samples need no conversion or FFmpeg is not installed."""
        reader, head, sound = WavReader(), b"", b""
        try:
            while reader.form is None and len(head) < _PROBE_BYTES and (data := source.read(_READ_BYTES)):
                head += data
                sound += reader.feed(data)
        except UnreadableAudio:
            if not codecs.is_installed():
                raise
            self._compressed(head, _Joined(head, source))
            return
        if reader.form is None or reader.form.is_plain or not codecs.is_installed():
            self._wav(reader, sound, source)
        else:
            self._compressed(head, _Joined(head, source))

    def _wav(self, reader: WavReader, sound: bytes, source: _Source) -> None:
        out = self._out(reader.sample_rate) if reader.sample_rate else None
        while True:
            if reader.sample_rate and out is None:
                out = self._out(reader.sample_rate)
            if sound and out is not None:
                out.put(sound)
            if not (data := source.read(_READ_BYTES)):
                break
            sound = reader.feed(data)
        reader.end()
        assert out is not None
        out.end()

    def _headerless(self, source: _Source, expected: Expected) -> None:
        out = self._out(expected.sample_rate)
        encoding = expected.encoding or "linear16"
        odd = b""
        while data := source.read(_READ_BYTES):
            if encoding in COMPANDED:
                out.put(expand(data, encoding))
                continue
            data = odd + data
            whole = len(data) & ~1
            odd = data[whole:]
            out.put(data[:whole])
        out.end()

    def _compressed(self, head: bytes, source: _Source) -> None:
        av = codecs.load()
        if head[4:8] == b"ftyp" or head.startswith(b"caff"):
            # MP4 and CAF may have their index at the end.
            with tempfile.TemporaryFile() as spool:
                self._by_ffmpeg(av, _ForFfmpeg(_spooled(spool, source)))
        else:
            self._by_ffmpeg(av, source)

    def _by_ffmpeg(self, av: Any, source: Any) -> None:
        options = {
            "format_whitelist": _FORMATS,
            "protocol_whitelist": "none",
            "probesize": str(_PROBE_BYTES),
        }
        try:
            with av.open(source, "r", container_options=options, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise UnreadableAudio("a file without sound")
                if (context := container.streams.audio[0].codec_context) is None:
                    raise UnreadableAudio("audio in an unknown codec")
                context.thread_count = 1
                self._frames(av, container)
        except (av.FFmpegError, EOFError):
            raise UnreadableAudio("not audio that can be decoded") from None

    def _frames(self, av: Any, container: Any) -> None:
        out: _Out | None = None
        mixer: Any = None
        kind: tuple[Any, ...] = ()
        for frame in _frames_of(av, container):
            if (frame.sample_rate, frame.format.name, frame.layout.name) != kind:
                kind = (frame.sample_rate, frame.format.name, frame.layout.name)
                if frame.sample_rate not in RATES:
                    raise UnreadableAudio(f"a file with a sample rate of {frame.sample_rate} Hz")
                if out is not None:
                    out.end()
                out, mixer = self._out(frame.sample_rate), av.AudioResampler(format="s16", layout="mono")
            frame.pts = None
            assert out is not None
            for mixed in mixer.resample(frame):
                out.put(bytes(mixed.planes[0])[: 2 * mixed.samples])
        if out is None:
            raise UnreadableAudio("a file without sound")
        out.end()

    def _out(self, rate: int) -> _Out:
        if rate != self.sample_rate and not can_resample():
            if rate not in _UPSTREAM_RATES:
                raise UnreadableAudio(f"a file of {rate} Hz, which is not resampled without the codecs extra")
            self.sample_rate = rate
        return _Out(resampler(rate, self.sample_rate), self._sound, int(self._max_seconds * rate))


class _Out:
    """Resamples decoded audio, and counts it against the most that is accepted."""

    def __init__(self, resampler: Resampler, sound: FromThread, most: int) -> None:
        self._resampler = resampler
        self._sound = sound
        self._left = most

    def put(self, pcm: bytes) -> None:
        self._left -= len(pcm) // 2
        if self._left < 0:
            raise TooLong
        self._give(self._resampler.feed(pcm))

    def end(self) -> None:
        self._give(self._resampler.end())

    def _give(self, pcm: bytes) -> None:
        if pcm:
            self._sound.put(pcm)


class _Joined:
    """A file that starts with bytes that were read before. It cannot seek."""

    def __init__(self, head: bytes, source: _Source) -> None:
        self._head = head
        self._source = source

    def read(self, size: int, /) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._source.read(size)


class _ForFfmpeg:
    """A file on disk for FFmpeg. A seek to an impossible position, as in a damaged file, returns an error code."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.tell, self._file = file.read, file.tell, file

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -errno.EINVAL


def _spooled(spool: IO[bytes], source: _Source) -> IO[bytes]:
    """Write everything that comes to a file on disk, and return to its start."""
    while data := source.read(_READ_BYTES):
        spool.write(data)
    spool.seek(0)
    return spool


def _frames_of(av: Any, container: Any) -> Iterator[Any]:
    """Yield the audio's frames. Like players, skip damaged packets, but not any number of them."""
    bad = 0
    for packet in container.demux(audio=0):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            bad += 1
            if bad > _BAD_PACKETS:
                raise
            continue
        yield from frames
