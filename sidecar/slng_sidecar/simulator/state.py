"""The state of a simulator: options, fault script, log and open connections; and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response

from slng_sidecar.engines.recognizers import Recognizer
from slng_sidecar.engines.selection import Engines
from slng_sidecar.engines.synthesizers import Synthesizer
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import WORLD_PARTS, check_byok, check_model, is_hosted
from slng_sidecar.simulator.faults import BadFault, Fault, FaultBook, parse_script
from slng_sidecar.simulator.options import BAD_PROVIDER_KEY, REFUSED_KEY, SimulatorOptions
from slng_sidecar.simulator.profiles import UNDEPLOYED, RouteProfile, check_profile, profile_of, route_profile
from slng_sidecar.simulator.proxy import TcpProxy
from slng_sidecar.simulator.records import Log, Record
from slng_sidecar.simulator.voices import timbre_of


class LiveConnection(Protocol):
    """What the simulator needs of an open WebSocket."""

    kind: str
    model: str
    record: Record

    def inject(self, fault: Fault) -> None:
        """Carry out a fault now."""


class Simulator:
    """A stand-in for SLNG.

    Attributes:
        options: the options.
        log: everything that was dialled.
        faults: the fault script.
        live: the open WebSockets, in the order in which they were accepted.
        engines: the synthesizers and the recognizer.
        needed: set once a connection or request needs an engine.
        prepared: set once the engines are loaded, if there are any.
        stopping: set once all connections must end.
        proxy: the TCP proxy that connections go through; None without ``options.tcp``.
        host: where it is served; empty until it is.
        port: likewise; 0 until it is served.
    """

    def __init__(self, options: SimulatorOptions) -> None:
        """Create a simulator that is not served yet.

        Raises:
            BadProfile, BadFault: an option has an unknown field or value.
            NotInstalled: an engine was chosen that is not installed.
        """
        check_profile(options.profile)
        check_profile(options.overrides)
        self.engines = Engines(options.speech, synthesizer=options.synthesizer, recognizer=options.recognizer)
        self.options = options
        self.log = Log(options.keep_audio)
        script = parse_script(list(options.faults))
        self._check_tcp(script)
        self.faults = FaultBook(script)
        self.live: dict[LiveConnection, None] = {}
        self.needed = asyncio.Event()
        self.prepared = asyncio.Event()
        self.stopping = asyncio.Event()
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
        """Add a fault to the script. With ``when="now"`` it acts on the connections that are open.

        Raises:
            BadFault: the fault is not valid.
        """
        return self.add_faults([fault])[0]

    def add_faults(self, script: object) -> list[Fault]:
        """Add faults: one, a list, or ``{"faults": [...]}``. Either all of them are added or none.

        Raises:
            BadFault: a fault is not valid.
        """
        entries = parse_script(script)
        self._check_tcp(entries)
        added = [self.faults.add(entry) for entry in entries]
        for fault in added:
            if fault.when == "now":
                self._act_now(fault)
        return added

    def _check_tcp(self, entries: Iterable[Mapping[str, Any]]) -> None:
        if not self.options.tcp and any(entry["do"] == "tcp" for entry in entries):
            raise BadFault("the fault 'tcp' needs a simulator that was started with --tcp")

    async def until_fired(self, fault: Fault, times: int = 1, timeout: float = 5) -> Record:
        """Wait until a fault has acted ``times`` times, and return the record it last acted on.

        Raises:
            TimeoutError: it did not act so often within ``timeout`` seconds.
        """
        await self.log.until(lambda log: len(fault.fired) >= times, timeout)
        return next(record for record in self.log.records if record.id == fault.fired[-1])

    def _act_now(self, fault: Fault) -> None:
        for connection in reversed(self.live):
            if fault.concerns(connection.kind, connection.model) and not fault.spent:
                fault.fired.append(connection.record.id)
                connection.inject(fault)
        self.log.touch()

    # For connections and requests

    @property
    def full(self) -> bool:
        """Whether one more WebSocket exceeds the limit."""
        return 0 < self.options.max_connections <= len(self.live)

    def is_regional(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request is for a regional gateway: by its Host if it is SLNG's, otherwise by the option."""
        host = headers.get("host", "").partition(":")[0].lower()
        if host == "api.slng.ai":
            return False
        world_part, _, domain = host.partition(".")
        return self.options.regional or (domain == "api.slng.ai" and world_part in WORLD_PARTS)

    def unauthorized(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Response | None:
        """Return SLNG's answer to a missing or wrong key; None if the key is accepted."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else ""
        key = key or headers.get("x-api-key", "") or query.get("token", "")
        accepted = key in self.options.keys if self.options.keys else bool(key)
        return None if accepted and key != REFUSED_KEY else JSONResponse({"error": "Unauthorized"}, 401)

    def refusal(self, kind: str, model: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Response | None:
        """Return SLNG's refusal of an upgrade or request: for its key, its model, or BYOK on a hosted route."""
        if (response := self.unauthorized(headers, query)) is not None:
            return response
        try:
            check_model(model)
        except GatewayError as error:
            return JSONResponse({"error": error.message}, 404)
        try:
            check_byok(model, headers.get("x-slng-provider-key"))
        except GatewayError as error:
            return JSONResponse({"error": error.message}, 400)
        if model in UNDEPLOYED:
            return JSONResponse({"error": "Bad Gateway"}, self.options.undeployed_status)
        if route_profile(kind, model) is None and self.options.unknown_status:
            return JSONResponse({"error": f"Unknown model {model}"}, self.options.unknown_status)
        return None

    def provider_refuses(self, model: str, headers: Mapping[str, str]) -> bool:
        """Return whether the provider refuses the key that the client sent (BYOK)."""
        return not is_hosted(model) and headers.get("x-slng-provider-key") == BAD_PROVIDER_KEY

    def profile_for(self, kind: str, model: str) -> RouteProfile:
        """Return the profile of a new connection."""
        return profile_of(kind, model, self.options.profile, self.options.overrides)

    def recognizer(self, model: str, language: str | None, rate: int | None, endpoint_ms: float) -> Recognizer:
        """Return the recognizer of a connection. ``rate`` is None for compressed audio.

        Raises:
            LanguageUnsupported: it does not recognize the language.
        """
        self.needed.set()
        return self.engines.recognizer(model, language, rate, endpoint_ms, self.options.script)

    def synthesizer(self, model: str, language: str | None, voice: str | None) -> Synthesizer:
        """Return the synthesizer of a connection.

        Raises:
            LanguageUnsupported: it does not speak the language.
        """
        self.needed.set()
        return self.engines.synthesizer(model, language, voice, timbre_of(voice))

    def known_models(self) -> Iterable[tuple[str, str]]:
        """Return the kind and the model of each entry of the catalogue."""
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
