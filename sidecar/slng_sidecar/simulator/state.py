"""The simulator's state: options, script, log and what is open; who is let in, and what they get."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from slng_sidecar.engines.recognizers import Recognizer, Synthesizer, describe, recognizer_for, synthesizer_for
from slng_sidecar.engines.workers import Workers
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import BYOK_REFUSED, WORLD_PARTS, check_byok, check_model, is_hosted
from slng_sidecar.simulator.connection import BridgeSession, SimulatedConnection
from slng_sidecar.simulator.faults import BadFault, Fault, FaultBook, parse_script
from slng_sidecar.simulator.options import BAD_PROVIDER_KEY, REFUSED_KEY, SimulatorOptions
from slng_sidecar.simulator.profiles import UNDEPLOYED, RouteProfile, check_profile, profile_of, route_profile
from slng_sidecar.simulator.proxy import TcpProxy
from slng_sidecar.simulator.records import Log, Record
from slng_sidecar.simulator.stt import SttSession
from slng_sidecar.simulator.tts import TtsSession


class Simulator:
    """A stand-in for SLNG.

    Attributes:
        options: as given.
        log: everything that was dialled.
        faults: the script in force.
        live: the WebSockets that stand, in the order they were accepted.
        prepared: set once the recogniser is loaded, where there is one.
        stopping: set once all are to end.
        proxy: what connections come through; None where none was asked for.
        host, port: where it is served; empty and 0 until it is.
        voice_name, ear_name: which voice and ear are in use, for people.
    """

    def __init__(self, options: SimulatorOptions) -> None:
        """Prepare.

        Raises:
            BadManners, BadFault: an option has a field or a value that does not exist.
            RuntimeError: real speech was asked for and is not installed.
        """
        check_profile(options.profile)
        check_profile(options.overrides)
        self.voice_name, self.recognizer_name = describe(options.speech)
        self.options = options
        self.log = Log(options.keep_audio)
        script = parse_script(list(options.faults))
        self._check_tcp(script)
        self.faults = FaultBook(script)
        self.live: dict[SimulatedConnection, None] = {}
        self.prepared = asyncio.Event()
        self.stopping = asyncio.Event()
        self.workers = Workers()
        self.proxy: TcpProxy | None = None
        self.host, self.port = "", 0

    @property
    def url(self) -> str:
        """The base URL for WebSockets, such as ``ws://127.0.0.1:9100``."""
        return f"ws://{self._address}"

    @property
    def http_url(self) -> str:
        """The base URL for HTTP."""
        return f"http://{self._address}"

    @property
    def _address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    # For tests and for the control routes

    def inject(self, **fault: Any) -> Fault:
        """Add a fault to the script; with ``when="now"`` it happens on what is open.

        Raises:
            BadFault: it cannot be understood.
        """
        return self.add_faults([fault])[0]

    def add_faults(self, script: object) -> list[Fault]:
        """Add faults: one, a list, or ``{"faults": [...]}``. Either all are taken or none.

        Raises:
            BadFault: one cannot be understood.
        """
        entries = parse_script(script)
        self._check_tcp(entries)
        added = [self.faults.add(entry) for entry in entries]
        for fault in added:
            if fault.when == "now":
                self._happen_now(fault)
        return added

    def _check_tcp(self, entries: Iterable[Mapping[str, Any]]) -> None:
        if not self.options.tcp and any(entry["do"] == "tcp" for entry in entries):
            raise BadFault("the fault 'tcp' needs a simulator that was started with --tcp")

    async def until_fired(self, fault: Fault, times: int = 1, timeout: float = 5) -> Record:
        """Wait until a fault has happened so often; give the record it last happened to.

        Raises:
            TimeoutError: it did not within ``timeout`` seconds.
        """
        await self.log.until(lambda log: len(fault.fired) >= times, timeout)
        return next(record for record in self.log.records if record.id == fault.fired[-1])

    def _happen_now(self, fault: Fault) -> None:
        for connection in reversed(self.live):
            if fault.concerns(connection.kind, connection.model) and not fault.spent:
                fault.fired.append(connection.record.id)
                connection.inject(fault)
        self.log.touch()

    # For connections and requests

    @property
    def full(self) -> bool:
        """Whether one more WebSocket is too many."""
        return 0 < self.options.max_connections <= len(self.live)

    def is_regional(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a request is for a regional gateway: by its Host where that is SLNG's, else by the option."""
        host = headers.get("host", "").partition(":")[0].lower()
        if host == "api.slng.ai":
            return False
        world_part, _, domain = host.partition(".")
        return self.options.regional or (domain == "api.slng.ai" and world_part in WORLD_PARTS)

    def unauthorized(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Response | None:
        """Refuse a missing or wrong key, in SLNG's words."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else ""
        key = key or headers.get("x-api-key", "") or query.get("token", "")
        taken = key in self.options.keys if self.options.keys else bool(key)
        return None if taken and key != REFUSED_KEY else JSONResponse({"error": "Unauthorized"}, 401)

    def refusal(self, kind: str, model: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Response | None:
        """Refuse what SLNG refuses at the upgrade, or a request: the key, the model, BYOK on a hosted route."""
        if (response := self.unauthorized(headers, query)) is not None:
            return response
        try:
            check_model(model)
            check_byok(model, headers.get("x-slng-provider-key"))
        except GatewayError as error:
            known = error.message == BYOK_REFUSED
            return JSONResponse({"error": error.message}, 400 if known else 404)
        if model in UNDEPLOYED:
            return JSONResponse({"error": "Bad Gateway"}, self.options.undeployed_status)
        if route_profile(kind, model) is None and self.options.unknown_status:
            return JSONResponse({"error": f"Unknown model {model}"}, self.options.unknown_status)
        return None

    def provider_refuses(self, model: str, headers: Mapping[str, str]) -> bool:
        """Tell whether the provider takes no such key (BYOK)."""
        return not is_hosted(model) and headers.get("x-slng-provider-key") == BAD_PROVIDER_KEY

    def profile_for(self, kind: str, model: str) -> RouteProfile:
        """Give the manners of a new connection."""
        return profile_of(kind, model, self.options.profile, self.options.overrides)

    def session(self, connection: SimulatedConnection, tasks: asyncio.TaskGroup, *, over: bool) -> BridgeSession:
        """Give what a connection that stands does."""
        refused = None
        if over:
            refused = ("rate_limit", "too many concurrent connections")
        elif self.provider_refuses(connection.model, connection.record.headers):
            refused = ("backend_connection_failed", "upstream 401")
        kind = SttSession if connection.kind == "stt" else TtsSession
        return kind(connection, tasks, refused=refused)

    def recognizer(self, model: str, rate: int | None, endpoint_ms: float) -> Recognizer:
        """Give what hears a connection; ``rate`` None is compressed audio."""
        return recognizer_for(self.options.speech, model, rate, endpoint_ms, self.options.script, self.workers)

    def synthesizer(self, model: str) -> Synthesizer:
        """Give what speaks for a connection."""
        return synthesizer_for(self.options.speech, model, self.workers)

    def known_models(self) -> Iterable[tuple[str, str]]:
        """Give (kind, model) for the catalogue."""
        return _CATALOGUE


_CATALOGUE = (
    ("stt", "deepgram/nova:3"),
    ("stt", "slng/deepgram/nova:3-en"),
    ("stt", "slng/deepgram/nova:3-multi"),
    ("stt", "gradium/stt:default"),
    ("stt", "sarvam/saaras:v3"),
    ("stt", "soniox/speech-ai:rt-v5"),
    ("stt", "slng/simulator/signal:1"),
    ("tts", "deepgram/aura:2"),
    ("tts", "slng/deepgram/aura:2-en"),
    ("tts", "cartesia/sonic:3.5"),
    ("tts", "gradium/tts:default"),
    ("tts", "sarvam/bulbul:v3"),
    ("tts", "slng/rime/arcana:3-en"),
    ("tts", "soniox/tts-rt:v1"),
    ("tts", "slng/simulator/signal:1"),
)
