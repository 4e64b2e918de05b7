"""HTTP: the bridges, Aura's native route, the catalogue, and the routes that control the simulator."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slng_sidecar.engines.pcm import wav_head
from slng_sidecar.engines.recognizers import mean_confidence
from slng_sidecar.engines.selection import LanguageUnsupported
from slng_sidecar.engines.workers import WorkerFailed
from slng_sidecar.net.serving import transport_of
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import parse_object
from slng_sidecar.simulator.faults import BadFault
from slng_sidecar.simulator.profiles import RouteProfile
from slng_sidecar.simulator.records import Record
from slng_sidecar.simulator.replies import refusal_of
from slng_sidecar.simulator.state import Simulator
from slng_sidecar.simulator.uploads import parse_upload, samples_of
from slng_sidecar.simulator.voices import voices_of

_MAX_UPLOAD = 32 << 20
_PIECE = 8192
_TTS_FIELDS = frozenset({"text", "voice", "pronunciation"})
_AURA_REFUSES = ("encoding", "sample_rate", "container", "config")
_TYPES = {"wav": "audio/wav", "wav_exact": "audio/wav", "pcm": "audio/pcm", "mp3": "audio/mpeg", "ogg": "audio/ogg"}
# An empty ID3 tag, then frames of silence: MPEG-1 layer 3, 64 kbit/s, 44.1 kHz, mono.
_MP3 = b"ID3\x04\x00\x00\x00\x00\x00\x00" + (b"\xff\xfb\x50\xc4" + bytes(204)) * 10
_OGG = b"OggS\x00\x02" + bytes(20) + b"\x01\x13OpusHead\x01\x01" + bytes(9)


def http_routes() -> list[Route]:
    """Return all routes except the WebSockets."""
    return [
        Route("/v1/bridges/unmute/tts/{model:path}", _bridge_tts, methods=["POST"]),
        Route("/v1/bridges/unmute/stt/{model:path}", _bridge_stt, methods=["POST"]),
        Route("/v1/tts/{model:path}", _native_tts, methods=["POST"]),
        Route("/v1/catalog/models", _catalogue),
        Route("/v1/me", _me),
        Route("/_sim/faults", _get_faults, methods=["GET"]),
        Route("/_sim/faults", _add_faults, methods=["POST"]),
        Route("/_sim/faults", _remove_faults, methods=["DELETE"]),
        Route("/_sim/faults/{number:int}", _remove_fault, methods=["DELETE"]),
        Route("/_sim/log", _get_log, methods=["GET"]),
        Route("/_sim/log", _clear_log, methods=["DELETE"]),
    ]


def _simulator(request: Request) -> Simulator:
    simulator: Simulator = request.app.state.simulator
    return simulator


# The bridges


async def _bridge_tts(request: Request) -> Response:
    record, profile, response = await _begin(request)
    if response is None:
        if _simulator(request).is_regional(request.headers):
            response = _error(405, "Method Not Allowed")
        else:
            response = await _tts_reply(request, record, profile)
    return _finish(request, record, response)


async def _tts_reply(request: Request, record: Record, profile: RouteProfile) -> Response:
    try:
        body = parse_object((await _body(request)).decode())
    except (GatewayError, UnicodeDecodeError):
        return _error(400, "The body is not a JSON object")
    record.received.append((0.0, body))
    if unknown := sorted(body.keys() - _TTS_FIELDS):
        return _error(400, f"Unsupported field {unknown[0]!r}")
    return await _speech(request, record, profile, body)


async def _native_tts(request: Request) -> Response:
    """Answer Aura's native route, which regional gateways have as well."""
    record, profile, response = await _begin(request)
    if response is None:
        try:
            body = parse_object((await _body(request)).decode())
        except (GatewayError, UnicodeDecodeError):
            body = {}
        record.received.append((0.0, body))
        if any(name in body for name in _AURA_REFUSES):
            response = _error(400, "Audio settings are not supported for this Deepgram Aura route")
        else:
            response = await _speech(request, record, profile, body)
    return _finish(request, record, response)


async def _speech(request: Request, record: Record, profile: RouteProfile, body: dict[str, Any]) -> Response:
    text = body.get("text")
    if not isinstance(text, str) or not text.strip():
        return _error(400, "'text' is required")
    voice = body.get("voice", body.get("model"))
    try:
        synthesizer = _simulator(request).synthesizer(record.model, None, voice if isinstance(voice, str) else None)
        pieces = synthesizer.synthesize(text, profile.http_rate)
        # An engine that fails at once is a refusal. The rest is synthesized while it is sent.
        first = await anext(pieces, b"")
    except LanguageUnsupported as error:
        return _error(400, str(error))
    except WorkerFailed as error:
        return _error(502, str(error))
    body_pieces = _in_format(first, pieces, profile)
    media_type = profile.http_type or _TYPES[profile.http_format]
    if profile.break_bytes:
        whole = b"".join([piece async for piece in body_pieces])
        return _Broken(whole[: profile.break_bytes], media_type)
    return StreamingResponse(
        _sent(request, record, body_pieces, profile),
        media_type=media_type,
        headers={"x-slng-request-id": f"r-{record.id}"},
    )


async def _bridge_stt(request: Request) -> Response:
    record, profile, response = await _begin(request)
    if response is None:
        if _simulator(request).is_regional(request.headers):
            response = _error(405, "Method Not Allowed")
        else:
            response = await _stt_reply(request, record, profile)
    return _finish(request, record, response)


async def _stt_reply(request: Request, record: Record, profile: RouteProfile) -> Response:
    simulator = _simulator(request)
    body = await _body(request)
    if len(body) > _MAX_UPLOAD:
        return _error(413, "Payload Too Large")
    try:
        fields, audio = parse_upload(request.headers.get("content-type", ""), body)
    except ValueError as error:
        return _error(400, str(error))
    record.received.append((0.0, fields))
    simulator.log.audio(record, audio)
    try:
        rate, pcm = samples_of(audio, fields)
    except ValueError as error:
        return _error(400, str(error))
    language = fields.get("language")
    try:
        recognizer = simulator.recognizer(
            record.model, language if isinstance(language, str) else None, rate, profile.endpoint_ms
        )
    except LanguageUnsupported as error:
        return _error(400, str(error))
    utterances = recognizer.feed(pcm)
    if (last := recognizer.finish(last=True)) is not None:
        utterances.append(last)
    try:
        words = [word for utterance in utterances for word in await recognizer.words(utterance)]
    except WorkerFailed as error:
        return _error(502, str(error))
    score = mean_confidence(words) if profile.confidence is not None else None
    confidence = profile.confidence or 0.0 if score is None else score
    alternative = {"transcript": " ".join(word.text for word in words), "confidence": confidence}
    reply = {"type": "transcription", "is_final": True, "alternatives": [alternative], "channel": 0}
    return JSONResponse(reply | {"language": fields.get("language", "en")})


async def _begin(request: Request) -> tuple[Record, RouteProfile, Response | None]:
    """Record a request, and return its refusal if SLNG would refuse it or a fault does."""
    simulator = _simulator(request)
    model = request.path_params["model"]
    kind = "tts" if "/tts/" in request.url.path else "stt"
    record = simulator.log.dialled("http", model, request.headers, request.query_params)
    simulator.faults.opened(record.id, "http", model)
    profile = simulator.profile_for(kind, model)
    refusal = simulator.refusal(kind, model, request.headers, request.query_params)
    if refusal is None and simulator.provider_refuses(model, request.headers):
        refusal = JSONResponse({"error": "upstream 401"}, 401, {"X-Slng-Auth-Source": "client_key"})
    for fault in simulator.faults.due(record.id, "http", model, "request"):
        record.faults.append(fault.do)
        simulator.log.touch()
        await asyncio.sleep(fault.delay_ms / 1000)
        match fault.do:
            case "refuse":
                refusal = refusal_of(fault.arguments)
            case "hang":
                await _until_gone(request)
                refusal = _error(503, "the simulator stops")
            case "drop":
                transport_of(request.scope).abort()
                await _disconnected(request)
                refusal = _error(503, "this connection was dropped")
            case "profile":
                profile = dataclasses.replace(profile, **fault.arguments["set"])
    return record, profile, refusal


async def _until_gone(request: Request) -> None:
    """Wait until the client leaves or the simulator stops."""
    leaving = asyncio.create_task(_disconnected(request), name="simulator: client leaves")
    stopping = asyncio.create_task(_simulator(request).stopping.wait(), name="simulator: stops")
    try:
        await asyncio.wait((leaving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        stopping.cancel()
        await asyncio.wait((leaving, stopping))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _finish(request: Request, record: Record, response: Response) -> Response:
    record.status = response.status_code
    if not isinstance(response, StreamingResponse):
        record.ended = "simulator"
    _simulator(request).log.touch()
    return response


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        if len(body) <= _MAX_UPLOAD:
            body += piece
    return bytes(body)


async def _in_format(first: bytes, rest: AsyncIterator[bytes], profile: RouteProfile) -> AsyncIterator[bytes]:
    """Yield speech in the profile's format, in pieces."""
    match profile.http_format:
        case "mp3":
            yield _MP3
            return
        case "ogg":
            yield _OGG
            return
        case "wav_exact":
            first += b"".join([piece async for piece in rest])
            yield wav_head(profile.http_rate, len(first))
        case "wav":
            yield wav_head(profile.http_rate, None)
    yield first
    async for piece in rest:
        yield piece


async def _sent(
    request: Request, record: Record, pieces: AsyncIterator[bytes], profile: RouteProfile
) -> AsyncIterator[bytes]:
    """Yield the body in real time, as the bridge sends its audio, and record who ended it."""
    log = _simulator(request).log
    try:
        async for piece in _paced(pieces, profile):
            yield piece
            record.audio_out += len(piece)
            log.touch()
        record.ended = "simulator"
    except WorkerFailed:
        record.ended = "simulator"
        transport_of(request.scope).abort()
    finally:
        record.ended = record.ended or "client"
        log.touch()


async def _paced(pieces: AsyncIterator[bytes], profile: RouteProfile) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    begun = loop.time() + profile.first_audio_ms / 1000
    bytes_a_second = 2 * profile.http_rate * profile.pace
    sent, left = 0, profile.truncate_bytes or math.inf
    async for whole in pieces:
        for at in range(0, len(whole), _PIECE):
            due = begun + (sent / bytes_a_second if bytes_a_second else 0)
            await asyncio.sleep(max(0, due - loop.time()))
            piece = whole[at : at + int(min(left, _PIECE))]
            yield piece
            sent += len(piece)
            left -= len(piece)
            if not left:
                return


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


class _Broken(Response):
    """A body that breaks off in the middle, together with the connection."""

    def __init__(self, body: bytes, media_type: str) -> None:
        super().__init__(body, media_type=media_type)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        transport_of(scope).close()
        while (await receive())["type"] != "http.disconnect":
            pass


# The catalogue


async def _catalogue(request: Request) -> Response:
    query = request.query_params
    if "limit" in query:
        return _error(400, "Unknown parameter 'limit'")
    items = [
        {
            "code": model,
            "name": model,
            "service_type": kind,
            "provider_code": model.removeprefix("slng/").split("/")[0],
            "languages": ["en"],
            "streaming": True,
            "api_path": f"/v1/bridges/unmute/{kind}/{model}",
            "available_regions": [],
            "region_details": [],
            "voices": [voice.as_dict() for voice in voices_of(model)],
            "supported_protocols": ["https", "wss"],
        }
        for kind, model in _simulator(request).known_models()
        if query.get("service_type", kind) == kind
    ]
    return JSONResponse({"data": items, "page": 1, "page_size": 100, "total": len(items)})


async def _me(request: Request) -> Response:
    refused = _simulator(request).unauthorized(request.headers, request.query_params)
    return refused or JSONResponse({"organization": "simulator"})


# Control


async def _get_faults(request: Request) -> Response:
    return JSONResponse({"faults": [fault.as_dict() for fault in _simulator(request).faults]})


async def _add_faults(request: Request) -> Response:
    try:
        script = json.loads(await _body(request))
    except ValueError:
        return _error(400, 'A script is JSON: one fault, a list of faults, or {"faults": [...]}')
    try:
        added = _simulator(request).add_faults(script)
    except BadFault as error:
        return _error(400, str(error))
    return JSONResponse({"faults": [fault.as_dict() for fault in added]}, 201)


async def _remove_faults(request: Request) -> Response:
    _simulator(request).faults.clear()
    return Response(status_code=204)


async def _remove_fault(request: Request) -> Response:
    number = request.path_params["number"]
    if _simulator(request).faults.remove(number):
        return Response(status_code=204)
    return _error(404, f"There is no fault {number}")


async def _get_log(request: Request) -> Response:
    log = _simulator(request).log
    return JSONResponse({"dials": log.dials, "open": len(log.open), "records": [r.as_dict() for r in log.records]})


async def _clear_log(request: Request) -> Response:
    _simulator(request).log.clear()
    return Response(status_code=204)
