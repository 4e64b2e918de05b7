"""A proxy process in front of the simulator that records when each WebSocket message passed.

The simulator's log has no times for binary messages, so arrival upstream is measured here. Both sides of every
comparison pass through the proxy. ``bench.world`` starts it with ``python -m bench.observer PORT FILE``. It forwards to
the simulator on PORT, prints its own port, and ends when its standard input is closed. For each line on standard input,
it flushes FILE and answers with a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import sys
import threading
import time
from typing import BinaryIO

RECORD = struct.Struct("<dIBBI")
"""Time (``time.monotonic``, the same clock in all processes), connection, direction, opcode, size of the payload."""
UP, DOWN = 0, 1
REQUEST = 255
"""Used instead of an opcode if the payload is the first line of the upgrade request."""
_CHUNK = 65_536


class _Direction:
    """Parses and records one direction of one connection: the HTTP head first, then frames."""

    def __init__(self, file: BinaryIO, connection: int, direction: int) -> None:
        self._file = file
        self._connection = connection
        self._direction = direction
        self._buffer = bytearray()
        self._in_head = True

    def record(self, data: bytes, at: float) -> None:
        """Record the messages that are complete with this data, which passed at time ``at``."""
        buffer = self._buffer
        buffer += data
        if self._in_head:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._in_head = False
            if self._direction == UP:
                self._write(at, REQUEST, bytes(buffer[: buffer.find(b"\r\n")]))
            del buffer[: end + 4]
        while (frame := _parse_frame(buffer)) is not None:
            opcode, payload, size = frame
            del buffer[:size]
            self._write(at, opcode, payload)

    def _write(self, at: float, opcode: int, payload: bytes) -> None:
        self._file.write(RECORD.pack(at, self._connection, self._direction, opcode, len(payload)))
        self._file.write(payload)


def _parse_frame(data: bytearray) -> tuple[int, bytes, int] | None:
    """Return the opcode, the payload and the size of the first frame, or None if it is not complete."""
    if len(data) < 2:
        return None
    masked, length, start = data[1] >> 7, data[1] & 0x7F, 2
    if length >= 126:
        start += 2 if length == 126 else 8
        if len(data) < start:
            return None
        length = int.from_bytes(data[2:start], "big")
    mask_at, start = start, start + 4 * masked
    if len(data) < start + length:
        return None
    payload = bytes(data[start : start + length])
    if masked:
        mask = (bytes(data[mask_at:start]) * (length // 4 + 1))[:length]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")
    return data[0] & 0x0F, payload, start + length


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            at = time.monotonic()
            writer.write(data)
            direction.record(data, at)
            await writer.drain()
    if reader.exception() is not None:
        writer.transport.abort()
    else:
        writer.close()


async def _serve(port: int, path: str) -> None:
    numbers = itertools.count(1)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    with open(path, "wb") as file:  # noqa: ASYNC230 # writes go to a buffer in memory first

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = next(numbers)
            there, back = await asyncio.open_connection("127.0.0.1", port)
            forwarding = (
                _forward(reader, back, _Direction(file, number, UP)),
                _forward(there, writer, _Direction(file, number, DOWN)),
            )
            # The end of the process cancels the connections that are still open.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*forwarding)

        def flush() -> None:
            file.flush()
            print("flushed", flush=True)

        def read_commands() -> None:
            for _ in sys.stdin:
                loop.call_soon_threadsafe(flush)
            loop.call_soon_threadsafe(ended.set)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        threading.Thread(target=read_commands, daemon=True).start()
        print(server.sockets[0].getsockname()[1], flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
