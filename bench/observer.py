"""A process between a client and the simulator that passes bytes on and writes down when each WebSocket message passed.

The simulator's log keeps no time for binary messages, so this is where arrival upstream is taken. Both sides of every
comparison go through it. It is started by ``bench.world``: ``python -m bench.observer PORT FILE`` connects to the
simulator on PORT, prints its own port, and ends with its standard input. A line on standard input has FILE flushed and
is answered by a line.
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
"""Time (``time.monotonic``, one clock for all processes), connection, direction, opcode, bytes that follow."""
UP, DOWN = 0, 1
REQUEST = 255
"""In place of an opcode: the bytes are the first line of the upgrade."""
_CHUNK = 65_536


class _Direction:
    """What passes one way on one connection; the HTTP head first, then frames."""

    def __init__(self, file: BinaryIO, connection: int, direction: int) -> None:
        self._file = file
        self._connection = connection
        self._direction = direction
        self._waiting = bytearray()
        self._head = True

    def passed(self, data: bytes, at: float) -> None:
        waiting = self._waiting
        waiting += data
        if self._head:
            end = waiting.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = False
            if self._direction == UP:
                self._write(at, REQUEST, bytes(waiting[: waiting.find(b"\r\n")]))
            del waiting[: end + 4]
        while (frame := _frame(waiting)) is not None:
            opcode, payload, size = frame
            del waiting[:size]
            self._write(at, opcode, payload)

    def _write(self, at: float, opcode: int, payload: bytes) -> None:
        self._file.write(RECORD.pack(at, self._connection, self._direction, opcode, len(payload)))
        self._file.write(payload)


def _frame(data: bytearray) -> tuple[int, bytes, int] | None:
    """Give the opcode and payload of the first frame and its size, once it is whole."""
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


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            at = time.monotonic()
            writer.write(data)
            direction.passed(data, at)
            await writer.drain()
    if reader.exception() is not None:
        writer.transport.abort()
    else:
        writer.close()


async def _serve(port: int, path: str) -> None:
    numbers = itertools.count(1)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    with open(path, "wb") as file:  # noqa: ASYNC230 # what is written goes to memory first

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = next(numbers)
            there, back = await asyncio.open_connection("127.0.0.1", port)
            passing = (
                _pass(reader, back, _Direction(file, number, UP)),
                _pass(there, writer, _Direction(file, number, DOWN)),
            )
            # Cancelled is what still runs at the end.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*passing)

        def flush() -> None:
            file.flush()
            print("flushed", flush=True)

        def listen() -> None:
            for _ in sys.stdin:
                loop.call_soon_threadsafe(flush)
            loop.call_soon_threadsafe(over.set)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        threading.Thread(target=listen, daemon=True).start()
        print(server.sockets[0].getsockname()[1], flush=True)
        await over.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
