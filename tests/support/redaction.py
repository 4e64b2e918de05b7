"""A sidecar whose peers repeat keys and words wherever they can, and a search through all its output.

The search looks for the core of each secret, so it finds parts of a key and a key in any escaped form.
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
# The keys contain characters that writers of JSON escape and that shells and addresses interpret.
SECRETS = {
    "SLNG_API_KEY": "sk-slng/1f0c9b7e5d+&Q==",
    "SLNG_PROVIDER_KEY": "sk-provider/88aa41d9",
    "SIDECAR_TOKEN": "token-local-5e6f70ab",
}
# A client's own key, for the sidecar or for the provider.
CLIENT_KEY = "sk-clients-own/c3d2a7f1"
# A key that a client puts in a wrong place. The client may see what it sent; nobody else may see it.
MISPLACED = "sk-misplaced-5be77c19"
WORDS = "n424242 n434343"
PCM = signal.encode([signal.SignalWord(424_242), signal.SignalWord(434_343)])
WAV = wav_header(16_000, data_size=len(PCM)) + PCM
KNOWN = f"{MISPLACED} {WORDS}"
# The text of an upstream: the keys that it was dialled with, which ``with_secrets`` fills in, and the words.
LEAKY = "{key} {provider} " + WORDS

CORES = {
    "SLNG's key": "1f0c9b7e5d",
    "the provider's key": "88aa41d9",
    "the token": "5e6f70ab",
    "the client's key": "c3d2a7f1",
    "the misplaced key": "5be77c19",
    "the first word": "n424242",  # digits alone occur in any number
    "the second word": "n434343",
}
PLACES = ("log", "replies", "metrics", "status", "pages", "traces")
_MAY_BE_TOLD = {"the misplaced key", "the first word", "the second word"}
_EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret in a place where it must not be."""

    place: str
    secret: str
    excerpt: str


@dataclass
class World:
    """A sidecar, its upstream, and all output."""

    sidecar: Running
    simulator: SimulatorProcess
    collector: Collector
    found: dict[str, str] = field(default_factory=lambda: dict.fromkeys(PLACES, ""))

    def keep(self, *what: object) -> None:
        """Keep something that was sent to a client."""
        self.found["replies"] += "\n".join(str(each) for each in what) + "\n"

    async def run_session(
        self, kind: str, model: str = EXTERNAL, headers: dict[str, str] | None = None, *, extended: bool = False
    ) -> None:
        """Run a session until it ends, and keep everything that it received."""
        with self.refusals():
            subprotocol = "slng-sidecar.v1" if extended else None
            async with talking(
                self.sidecar.url, kind, model, authorized(**(headers or {})), subprotocol=subprotocol
            ) as talk:
                await self.send_all(talk, kind, extended=extended)

    async def send_all(self, talk: Talk, kind: str, *, extended: bool) -> None:
        """Send valid and invalid messages in a session until it ends."""
        try:
            if kind == "stt":
                await talk.send(STT_INIT, PCM, {"type": "finalize"}, {"type": "nonsense " + KNOWN}, "{" + KNOWN)
            else:
                context = {"context_id": KNOWN} if extended else {}
                await talk.send(TTS_INIT, {"type": "text", **context, "text": WORDS}, {"type": "flush", **context})
                await talk.send({"type": "clear", "context_id": KNOWN}, {"type": "text", "text": [KNOWN]})
            await talk.send({"type": "close"})
            self.keep(await talk.until_closed())
        except (ConnectionClosed, TimeoutError) as error:
            self.keep(error)
        self.keep(*talk.messages)

    @contextlib.contextmanager
    def refusals(self) -> Any:
        """Keep the reply to a refused upgrade."""
        try:
            yield
        except InvalidStatus as error:
            self.keep(error, error.response.headers, error.response.body)

    async def ask(self, method: str, path: str, **request: Any) -> int:
        """Send a request and keep the reply, even if it breaks off. ``headers`` replace the token."""
        headers = request.pop("headers", authorized())
        async with httpx.AsyncClient(trust_env=False, base_url=self.sidecar.url, timeout=20) as client:
            data, status = b"", 0
            try:
                async with client.stream(method, path, headers=headers, **request) as reply:
                    status = reply.status_code
                    self.keep(status, dict(reply.headers))
                    async for piece in reply.aiter_raw():
                        data += piece
            except httpx.HTTPError as error:
                self.keep(repr(error))
            self.keep(data.decode(errors="replace"))
            return status

    async def read_pages(self) -> None:
        """Read the metrics, the status and the pages."""
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
        """Return every leak in the output."""
        return [
            Leak(place, secret, text[max(0, at - _EXCERPT) : at + _EXCERPT])
            for place, text in self.found.items()
            for secret, core in CORES.items()
            if not (place == "replies" and secret in _MAY_BE_TOLD) and (at := text.find(core)) >= 0
        ]

    def assert_searchable(self, *events: str) -> None:
        """Check that there is output in each place, so that a search can find something."""
        for place, text in self.found.items():
            assert text, f"there is no output in the {place}"
        for event in events:
            assert event in self.found["log"], event


@contextlib.asynccontextmanager
async def leaky_world(
    *arguments: str, command: Sequence[str | Path] = (COMMAND,), upstream: str | None = None, **settings: str
) -> AsyncIterator[World]:
    """Run a sidecar that logs everything, on a simulator or another upstream. After the block all output can be
    searched.
    """
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
                    await world.read_pages()
        # The sidecar writes its last lines and spans while it ends.
        world.found["log"] = sidecar.err
        world.found["traces"] = b"".join(collector.requests).decode(errors="replace")


def authorized(**more: str) -> dict[str, str]:
    """Return headers with the sidecar's token."""
    return {"Authorization": f"Bearer {SECRETS['SIDECAR_TOKEN']}", **more}


def with_secrets(fault: dict[str, Any], provider: str = SECRETS["SLNG_PROVIDER_KEY"]) -> dict[str, Any]:
    """Return a fault with the keys that upstream got filled in."""
    text = json.dumps(fault).replace("{key}", SECRETS["SLNG_API_KEY"]).replace("{provider}", provider)
    found: dict[str, Any] = json.loads(text)
    return found


def escaped(text: str) -> str:
    """Return a text as JSON, escaped as writers in other languages escape it."""
    return json.dumps(text).replace("/", "\\/").replace("&", "\\u0026")
