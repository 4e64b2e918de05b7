"""``check`` and ``wait``: is it set up, is it there?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx

from slng_sidecar.cli.address import SidecarAddress
from slng_sidecar.config import Settings, check_exposure
from slng_sidecar.keys import Secrets
from slng_sidecar.protocol.errors import Close
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.route import Kind, Target, is_hosted
from slng_sidecar.upstream.connection import Dialler, Limits, UpstreamConnection


async def check(settings: Settings, secrets: Secrets, write: Callable[[str], None]) -> bool:
    """Check the settings and open one session of each kind with them; write a line for each, and tell if all went well.

    Raises:
        ConfigError: the settings cannot be used.
    """
    check_exposure(settings, secrets)
    write(f"gateway   {settings.gateway}")
    key = secrets.api_key
    if key is None:
        write("key       none: set SLNG_API_KEY or SLNG_API_KEY_FILE")
        return False
    write("key       set")
    models: tuple[tuple[Kind, str], ...] = (("stt", settings.slng_stt_model), ("tts", settings.slng_tts_model))
    targets = [
        Target(
            kind=kind,
            model=model,
            base_url=settings.gateway,
            api_key=key,
            provider_key=None if is_hosted(model) else secrets.provider_key(kind),
            region=settings.slng_region_override,
            world_part_override=settings.slng_world_part_override,
        )
        for kind, model in models
    ]
    probes = [_Probe(target, settings) for target in targets]
    await asyncio.gather(*(probe.run() for probe in probes))
    for probe in probes:
        write(f"{probe.target.kind}       {probe.target.model}: {probe.result}")
    return all(probe.ready for probe in probes)


class _Probe:
    """Owns one connection that is opened and, once ready, closed."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self.target = target
        self.ready = False
        self.result = "no answer"
        self._started = time.monotonic()
        config: dict[str, object] = {"encoding": "linear16", "sample_rate": 16_000}
        init: dict[str, object] = {"type": "init", "config": config}
        if target.kind == "tts" and settings.slng_tts_voice:
            init["voice"] = settings.slng_tts_voice
        limits = Limits(open_timeout=settings.sidecar_open_timeout, close_timeout=1)
        dialler = Dialler(limits, proxy_from_env=settings.slng_proxy_from_env)
        self._connection = UpstreamConnection(0, target, dump(init), dialler, self)

    async def run(self) -> None:
        await self._connection.run()

    def upstream_opened(self, connection: int) -> None:
        pass

    def upstream_ready(self, connection: int, text: str) -> None:
        self.ready = True
        self.result = f"ready after {1000 * (time.monotonic() - self._started):.0f} ms"
        self._connection.retire()

    async def upstream_message(self, connection: int, data: str | bytes) -> None:
        return

    def upstream_lost(self, connection: int, close: Close) -> None:
        self.result = f"{close.error.code}: {close.error.message}"


async def wait(address: SidecarAddress, timeout: float) -> str | None:
    """Wait until a sidecar says that it is ready; None then, else why it is not."""
    reason = f"No sidecar answers at {address}."
    until = time.monotonic() + timeout
    async with address.http(timeout=2) as http:
        while True:
            try:
                reply = await http.get("/readyz")
                if reply.status_code == 200:
                    return None
                reason = f"The sidecar at {address} is not ready (HTTP {reply.status_code})."
            except httpx.HTTPError:
                reason = f"No sidecar answers at {address}."
            if time.monotonic() >= until:
                return f"{reason} Waited {timeout:g} s."
            await asyncio.sleep(0.1)
