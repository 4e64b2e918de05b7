"""Reads uploads while they come: the fields and the file of a form, or a file alone, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from slng_sidecar.protocol.errors import ErrorCode, GatewayError

_MAX_FIELDS_BYTES = 262_144
_MAX_PARTS = 100


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileBegins:
    """The start of the file. The bytes that follow are the file's; in a form, fields may follow them."""

    content_type: str
    in_form: bool


Event = Field | FileBegins | bytes


class MultipartForm:
    """Parses a ``multipart/form-data`` body that comes in pieces. It keeps only fields that are not complete yet."""

    def __init__(self, boundary: bytes, file_name: str) -> None:
        """Create a parser.

        Args:
            boundary: the form's boundary.
            file_name: the name of the file's field.

        Raises:
            GatewayError: the boundary is not valid.
        """
        self._file_name = file_name
        self._events: list[Event] = []
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._in_file = self._had_file = self._ended = False
        self._parts = self._fields_bytes = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ends,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise GatewayError(ErrorCode.BAD_REQUEST, f"The form cannot be read: {error}.") from None

    def feed(self, data: bytes) -> list[Event]:
        """Parse the next bytes, and return what they complete.

        Raises:
            GatewayError: the body is not a form, or not one that is accepted.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise GatewayError(
                ErrorCode.BAD_REQUEST, "The body is not the multipart form that its header says."
            ) from None
        events, self._events = self._events, []
        return events

    def end(self) -> None:
        """End the form.

        Raises:
            GatewayError: it is not complete.
        """
        if not self._ended:
            raise GatewayError(ErrorCode.BAD_REQUEST, "The form breaks off before its end.")

    # Callbacks of the parser

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise GatewayError(ErrorCode.PAYLOAD_TOO_LARGE, f"One form may have at most {_MAX_PARTS} fields.")
        self._headers.clear()
        self._header.clear()
        self._value.clear()
        self._in_file = False

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == self._file_name:
            if self._had_file:
                raise GatewayError(
                    ErrorCode.BAD_REQUEST, f"The form has the field {self._file_name!r} twice. Send one file at a time."
                )
            self._in_file = self._had_file = True
            self._events.append(FileBegins(self._headers.get(b"content-type", b"").decode("latin-1"), True))
        elif b"filename" in options:
            raise GatewayError(
                ErrorCode.BAD_REQUEST, f"Put the file into the field {self._file_name!r}, not {self._name[:60]!r}."
            )

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._events.append(data[start:end])
            return
        self._fields_bytes += end - start
        if self._fields_bytes > _MAX_FIELDS_BYTES:
            raise GatewayError(
                ErrorCode.PAYLOAD_TOO_LARGE, f"The fields of a form may have at most {_MAX_FIELDS_BYTES:,} bytes."
            )
        self._value += data[start:end]

    def _part_ends(self) -> None:
        if not self._in_file:
            self._events.append(Field(self._name, self._value.decode("utf-8", "replace")))
        self._value.clear()

    def _end(self) -> None:
        self._ended = True


async def read_upload(request: Request, *, file_name: str, max_file: int, stall_seconds: float) -> AsyncIterator[Event]:
    """Read a form with a file, or a file alone, and yield its parts as they come.

    Args:
        file_name: the name of the file's field in a form.
        max_file: the most bytes of the file.
        stall_seconds: how long the client may send nothing.

    Raises:
        GatewayError: the body is neither of the two, too large, or stalls.
        ClientDisconnect: the client left.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    form = None
    if kind == b"multipart/form-data":
        if not options.get(b"boundary"):
            raise GatewayError(ErrorCode.BAD_REQUEST, "A multipart form needs its boundary in Content-Type.")
        form = MultipartForm(options[b"boundary"], file_name)
    elif kind in (b"application/json", b"text/plain", b"text/html") or kind.startswith(b"multipart/"):
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"This route takes a form (multipart/form-data) with the audio in {file_name!r}, not "
            f"{kind.decode('latin-1')[:60]!r}.",
            status=415,
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_file + (0 if form is None else _MAX_FIELDS_BYTES):
        raise too_large(max_file)
    if form is None:
        yield FileBegins(request.headers.get("content-type", ""), False)
    size = 0
    async for data in _pieces(request, stall_seconds):
        for event in form.feed(data) if form is not None else (data,):
            if isinstance(event, bytes):
                size += len(event)
                if size > max_file:
                    raise too_large(max_file)
            yield event
    if form is not None:
        form.end()


def too_large(max_file: int) -> GatewayError:
    """Return the error for a file that is too large."""
    return GatewayError(
        ErrorCode.PAYLOAD_TOO_LARGE,
        f"One file may have at most {max_file:,} bytes (SIDECAR_MAX_UPLOAD). Send it in parts, or compressed.",
    )


async def _pieces(request: Request, stall_seconds: float) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(stall_seconds):
                data = await anext(stream, None)
        except TimeoutError:
            raise GatewayError(
                ErrorCode.CLIENT_STUCK, f"The upload stalled for {stall_seconds:g} s (SIDECAR_INIT_TIMEOUT)."
            ) from None
        if data is None:
            return
        if data:
            yield data


__all__ = ["ClientDisconnect", "Event", "Field", "FileBegins", "MultipartForm", "read_upload", "too_large"]
