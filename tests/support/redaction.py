"""A sidecar among peers that repeat keys and words wherever they can, and all that comes out of it, to be searched.

Secrets are looked for by their core, so that a key is found in part as well, and in whichever way it is escaped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from slng_sidecar.audio.wav import wav_header
from slng_sidecar.engines import signal
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.bots import SimulatorProcess, simulator_process
from support.collector import Collector, collecting
from support.processes import COMMAND, Running, serving
from support.running import STT_INIT, TTS_INIT, Talk, talking

EXTERNAL = "simulator/signal:1"
# With what writers of JSON escape, and shells and addresses take for something else.
SECRETS = {
    "SLNG_API_KEY": "sk-slng/1f0c9b7e5d+&Q==",
    "SLNG_PROVIDER_KEY": "sk-provider/88aa41d9",
    "SIDECAR_TOKEN": "token-local-5e6f70ab",
}
# A client's own, for itself or for the provider.
CLIENT_KEY = "sk-clients-own/c3d2a7f1"
# One that a client writes where no key belongs. What it wrote it may be told; nobody else may be.
MISPLACED = "sk-misplaced-5be77c19"
WORDS = "n424242 n434343"
PCM = signal.encode([signal.SignalWord(424_242), signal.SignalWord(434_343)])
WAV = wav_header(16_000, data_size=len(PCM)) + PCM
KNOWN = f"{MISPLACED} {WORDS}"
# What an upstream says: the keys that it was dialled with, filled in by ``knowing``, and the words.
LEAKY = "{key} {provider} " + WORDS

CORES = {
    "SLNG's key": "1f0c9b7e5d",
    "the provider's key": "88aa41d9",
    "the token": "5e6f70ab",
    "the client's key": "c3d2a7f1",
    "the misplaced key": "5be77c19",
    "the first word": "n424242",  # digits alone turn up in any number
    "the second word": "n434343",
}
PLACES = ("log", "replies", "metrics", "status", "pages", "traces")
_MAY_BE_TOLD = {"the misplaced key", "the first word", "the second word"}
_EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret where it must not be."""

    place: str
    secret: str
    excerpt: str


@dataclass
class World:
    """A sidecar, its upstream, and what came out."""

    sidecar: Running
    simulator: SimulatorProcess
    collector: Collector
    found: dict[str, str] = field(default_factory=lambda: dict.fromkeys(PLACES, ""))

    def take(self, *what: object) -> None:
        """Keep something that a client was told."""
        self.found["replies"] += "\n".join(str(each) for each in what) + "\n"

    async def converse(
        self, kind: str, model: str = EXTERNAL, headers: dict[str, str] | None = None, *, extended: bool = False
    ) -> None:
        """Hold a session for as long as it goes, and keep what it was told."""
        with self.refusals():
            subprotocol = "slng-sidecar.v1" if extended else None
            async with talking(
                self.sidecar.url, kind, model, authorized(**(headers or {})), subprotocol=subprotocol
            ) as talk:
                await self.send_all(talk, kind, extended=extended)

    async def send_all(self, talk: Talk, kind: str, *, extended: bool) -> None:
        """Say in a session what is sense and what is none, to its end."""
        try:
            if kind == "stt":
                await talk.send(STT_INIT, PCM, {"type": "finalize"}, {"type": "nonsense " + KNOWN}, "{" + KNOWN)
            else:
                context = {"context_id": KNOWN} if extended else {}
                await talk.send(TTS_INIT, {"type": "text", **context, "text": WORDS}, {"type": "flush", **context})
                await talk.send({"type": "clear", "context_id": KNOWN}, {"type": "text", "text": [KNOWN]})
            await talk.send({"type": "close"})
            self.take(await talk.until_closed())
        except (ConnectionClosed, TimeoutError) as error:
            self.take(error)
        self.take(*talk.messages)

    @contextlib.contextmanager
    def refusals(self) -> Any:
        """Keep what a refused upgrade was told."""
        try:
            yield
        except InvalidStatus as error:
            self.take(error, error.response.headers, error.response.body)

    async def ask(self, method: str, path: str, **request: Any) -> int:
        """Send a request, with the token unless ``headers`` say otherwise; keep the reply, also one that breaks off."""
        headers = request.pop("headers", authorized())
        async with httpx.AsyncClient(trust_env=False, base_url=self.sidecar.url, timeout=20) as client:
            data, status = b"", 0
            try:
                async with client.stream(method, path, headers=headers, **request) as reply:
                    status = reply.status_code
                    self.take(status, dict(reply.headers))
                    async for piece in reply.aiter_raw():
                        data += piece
            except httpx.HTTPError as error:
                self.take(repr(error))
            self.take(data.decode(errors="replace"))
            return status

    async def look(self) -> None:
        """Read the metrics, the status and the pages as they are now."""
        paths = {
            "metrics": ["/metrics"],
            "status": ["/v1/status"],
            "pages": ["/", "/docs", "/openapi.json", "/healthz"],
        }
        async with httpx.AsyncClient(trust_env=False, base_url=self.sidecar.url, headers=authorized()) as client:
            for place, some in paths.items():
                for path in some:
                    reply = await client.get(path)
                    assert reply.status_code == 200
                    self.found[place] += f"{dict(reply.headers)}\n{reply.text}\n"

    def leaks(self) -> list[Leak]:
        """Search all that came out."""
        return [
            Leak(place, secret, text[max(0, at - _EXCERPT) : at + _EXCERPT])
            for place, text in self.found.items()
            for secret, core in CORES.items()
            if not (place == "replies" and secret in _MAY_BE_TOLD) and (at := text.find(core)) >= 0
        ]

    def assert_searchable(self, *events: str) -> None:
        """Check that there is something in each place, so that a search can find it."""
        for place, text in self.found.items():
            assert text, f"nothing came out in the {place}"
        for event in events:
            assert event in self.found["log"], event


@contextlib.asynccontextmanager
async def leaky_world(
    *arguments: str, command: Sequence[str | Path] = (COMMAND,), upstream: str | None = None, **settings: str
) -> AsyncIterator[World]:
    """Run a sidecar that says all it can, on a simulator, or on another upstream; then there is all to be searched."""
    with collecting() as (endpoint, collector):
        async with simulator_process(first_audio_ms=20) as simulator:
            environment = {
                "SLNG_BASE_URL": upstream or simulator.url,
                "SIDECAR_RECONNECT_SECONDS": "0.5",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                **SECRETS,
                **settings,
            }
            async with serving("--log-level", "debug", *arguments, command=command, cwd=None, **environment) as sidecar:
                world = World(sidecar, simulator, collector)
                yield world
                if sidecar.code is None:
                    await world.look()
        # Its last lines and spans came while it ended.
        world.found["log"] = sidecar.err
        world.found["traces"] = b"".join(collector.requests).decode(errors="replace")


def authorized(**more: str) -> dict[str, str]:
    """Give headers with the sidecar's token."""
    return {"Authorization": f"Bearer {SECRETS['SIDECAR_TOKEN']}", **more}


def knowing(fault: dict[str, Any], provider: str = SECRETS["SLNG_PROVIDER_KEY"]) -> dict[str, Any]:
    """Let a fault tell the keys that upstream was given."""
    text = json.dumps(fault).replace("{key}", SECRETS["SLNG_API_KEY"]).replace("{provider}", provider)
    found: dict[str, Any] = json.loads(text)
    return found


def escaped(text: str) -> str:
    """Write a text as other languages' writers of JSON do."""
    return json.dumps(text).replace("/", "\\/").replace("&", "\\u0026")
