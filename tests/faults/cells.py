"""One fault at one moment: a session runs through it and is checked against the promises."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from faults.cases import DIAL, PROFILE, READY, Case
from slng_sidecar.config import load_settings
from slng_sidecar.engines import signal
from slng_sidecar.net.serving import serving
from slng_sidecar.server.app import create_app
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.run import address_of, listen
from slng_sidecar.server.services import Services
from slng_sidecar.simulator import Fault, Simulator
from support import stt_runs, tts_runs
from support.running import KEY, talking
from websockets.exceptions import ConnectionClosed

EXTENDED = "slng-sidecar.v1"
PACE = 10.0


@dataclass(frozen=True)
class Cell:
    """A fault, a kind of session, a moment, and whether the session has a standby connection."""

    case: Case
    kind: str
    moment: str
    standby: bool

    def __str__(self) -> str:
        spare = "with" if self.standby else "without"
        return f"{self.case.number} {self.case.name}, {self.kind}, {self.moment}, {spare} standby"


@dataclass
class World:
    """What cells run in: a simulator, the shared gateways, and a way to start a gateway that may be drained.

    Attributes:
        urls: the gateways for HTTP requests, by the upstream API that they use.
    """

    simulator: Simulator
    urls: dict[str, str]
    settings: dict[str, Any]

    @contextlib.asynccontextmanager
    async def own_gateway(self, **more: Any) -> AsyncIterator[tuple[str, Gateway]]:
        settings = {"slng_api_key": KEY, "sidecar_port": 0, **self.settings, **more}
        values, secrets = load_settings(None, None, slng_base_url=self.simulator.url, **settings)
        gateway, sock = Gateway(Services(values, secrets)), listen(values)
        app = create_app(gateway)
        async with serving(app, sock, max_message_size=1 << 20, shutdown_timeout=1):
            yield address_of(sock), gateway


async def outcome(world: World, cell: Cell, number: int, factor: float) -> str:
    """Run a cell and return its result in a word.

    Raises:
        AssertionError: a promise was broken, or the fault never occurred.
    """
    model = f"slng/simulator/signal:cell-{number}"
    trouble = _Trouble(world.simulator, cell, model)
    life = _run_tts if cell.kind == "tts" else _run_stt
    async with contextlib.AsyncExitStack() as stack:
        url, gateway = world.urls[""], None
        if cell.moment == "during drain":
            url, gateway = await stack.enter_async_context(world.own_gateway())
        result = await life(url, gateway, cell, model, trouble, factor)
    assert trouble.fault is not None
    assert trouble.fault.fired, "the fault never occurred"
    if cell.case.pause:
        records = world.simulator.log.of(cell.kind, model)
        assert any("keepalive" in record.types for record in records), "nothing was idle"
        assert "idle timeout" not in [record.close_reason for record in records], "an idle connection was lost"
    return result


class _Trouble:
    """Injects the fault at its moment."""

    def __init__(self, simulator: Simulator, cell: Cell, model: str) -> None:
        self.simulator = simulator
        self.cell = cell
        self.model = model
        self.fault: Fault | None = None
        if cell.case.happens == PROFILE or cell.moment in ("dialling", "before ready"):
            self.put("init")

    def put(self, when: str, **where: Any) -> None:
        """Inject the fault at a moment of upstream, from now on."""
        if self.fault is None:
            happens = self.cell.case.happens
            at = {"when": when, **where} if happens not in (DIAL, PROFILE, READY) else {}
            self.fault = self.simulator.inject(**{**at, "model": self.model, **self.cell.case.fault})

    async def came(self) -> None:
        """Wait until the fault has occurred, but not forever: the cell itself reports a fault that never occurs."""
        if self.fault is not None:
            with contextlib.suppress(TimeoutError):
                await self.simulator.until_fired(self.fault, timeout=5)

    async def ended(self, turns: int, texts: int) -> None:
        """Wait until upstream has ended each text of these turns, and each turn except the last."""
        log, cell = self.simulator.log, self.cell
        with contextlib.suppress(TimeoutError):
            await log.until(
                lambda _: (
                    sum(m["type"] == "audio_end" for r in log.of(cell.kind, self.model) for _, m in r.sent)
                    >= (texts + 1) * turns - 1
                ),
                timeout=3,
            )


async def _drain(gateway: Gateway | None, trouble: _Trouble) -> None:
    if gateway is not None:
        await gateway.drain(8)


async def _opened(trouble: _Trouble) -> None:
    """Wait until the session's own connection is open, and its standby connection if it has one."""
    log, cell = trouble.simulator.log, trouble.cell
    await log.until(lambda _: len([r for r in log.of(cell.kind, trouble.model) if r.sent]) >= 1 + cell.standby)


async def _run_tts(url: str, gateway: Gateway | None, cell: Cell, model: str, trouble: _Trouble, factor: float) -> str:
    moment = cell.moment
    async with talking(url, "tts", model, subprotocol=EXTENDED) as talk:
        run = tts_runs.Troubled(talk, random.Random(str(cell)))
        await talk.send({**tts_runs.INIT, "standby": cell.standby})
        listening = asyncio.create_task(run.listen())
        draining = None
        with contextlib.suppress(ConnectionClosed):
            if moment == "after flush or finalize":
                trouble.put("flush")
            elif moment in ("mid utterance", "during drain"):
                trouble.put("audio", after_ms=150)
            elif moment not in ("dialling", "before ready"):
                await _opened(trouble)
            # The cleared text is long, so that its audio is still being delivered at the clear.
            if moment == "during a clear":
                await _send_context(run, "c0", range(100, 160))
            else:
                await _send_context(run, "c0", range(1, 4), trouble)
            if moment == "during an update":
                trouble.put("init")
                run.updates.append("u0")
                await talk.send({"type": "update", "id": "u0", "voice": "v1"})
            if moment == "during a clear":
                await _until(run, lambda: bool(run.contexts.get("c0") and run.contexts["c0"].audio))
                trouble.put("clear")
                run.rng = random.Random(0)
                await run.clear(every=False)
            if cell.case.between:
                await _send(run, "between", [cell.case.between])
            await asyncio.sleep(cell.case.pause)
            await _send_context(run, "c1", range(4, 8), trouble)
            if gateway is not None:
                # After a pause the first context has long ended, and the next one may not have started yet.
                await _until(run, lambda: ("c1" if cell.case.pause else "c0") in run.contexts)
                draining = asyncio.create_task(_drain(gateway, trouble))
            else:
                await _send_context(run, "c2", range(8, 12), trouble)
        if draining is not None:
            async with asyncio.timeout(15 * factor):
                await draining
                await listening
            code = talk.websocket.close_code
            assert code == 1012 if run.fatal is None else code != 1000, code
        else:
            await run.finish(listening, within=15 * factor)
    run.check(may_fail=cell.case.may_fail)
    if run.fatal is not None:
        return _ended(cell, run.fatal)
    reasons = [context.reason for context in run.contexts.values()]
    if cell.case.between:
        others = [context.reason for name, context in run.contexts.items() if name != "between"]
        assert "failed" not in others, "another context failed too"
    return "one failed" if "failed" in reasons else "cleared" if "cleared" in reasons else "whole"


async def _send_context(run: tts_runs.Troubled, name: str, numbers: range, trouble: _Trouble | None = None) -> None:
    words = [f"n{number}" for number in numbers]
    if trouble is None or not trouble.cell.case.apart:
        await _send(run, name, [" ".join(words)], numbers)
    else:
        await _send(run, name, [f"{words[0]} ", " ".join(words[1:])], numbers, trouble)


async def _send(
    run: tts_runs.Troubled,
    name: str,
    texts: list[str],
    numbers: range = range(0),
    trouble: _Trouble | None = None,
) -> None:
    run.words[name] = list(numbers)
    await run.talk.send(*({"type": "text", "context_id": name, "text": text} for text in texts))
    if trouble is not None:
        await trouble.ended(len(run.words), len(texts))
    await run.talk.send({"type": "flush", "context_id": name})


async def _until(run: tts_runs.Troubled, condition: Any) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3):
            while not condition():
                run.changed.clear()
                await run.changed.wait()


async def _run_stt(url: str, gateway: Gateway | None, cell: Cell, model: str, trouble: _Trouble, factor: float) -> str:
    moment = cell.moment
    words = [signal.SignalWord(number, frames=8, gap=20 if number % 4 == 0 else 2) for number in range(1, 17)]
    pcm = signal.encode(words, stt_runs.RATE)
    half = len(pcm) // 2 // 2 * 2
    async with talking(url, "stt", model, subprotocol=EXTENDED) as talk:
        run = stt_runs.Troubled(talk, random.Random(str(cell)), pace=PACE, answer_within=1.5 + 3 * factor)
        await talk.send({**stt_runs.INIT, "standby": cell.standby})
        listening = asyncio.create_task(run.listen())
        draining = None
        with contextlib.suppress(ConnectionClosed):
            if moment in ("mid utterance", "during drain"):
                trouble.put("audio", after_ms=400)
            elif moment == "after flush or finalize":
                trouble.put("finalize")
            await run.send_speech(pcm[:half])
            await run.finalize()
            await asyncio.sleep(cell.case.pause)
            if moment == "during an update":
                await _opened(trouble)
                trouble.put("init")
                run.updates.append("u0")
                await talk.send({"type": "update", "id": "u0", "config": {"language": "de"}})
            if gateway is not None:
                draining = asyncio.create_task(_drain(gateway, trouble))
            await run.send_speech(pcm[half:])
            if draining is None and moment == "during an update":
                await talk.send(bytes(2 * stt_runs.RATE // 4))
                await trouble.came()
            if draining is not None:
                await run.finalize()
        if draining is not None:
            async with asyncio.timeout(15 * factor):
                await draining
                await listening
            assert run.code == 1012 if run.fatal is None else run.code != 1000, run.code
        else:
            await run.end(listening, within=15 * factor)
    numbers = [word.number for word in words]
    run.check(
        numbers, exact=True, whole=not cell.case.silent, drained=draining is not None, unreported=cell.case.unreported
    )
    if run.fatal is not None:
        return _ended(cell, run.fatal)
    outcomes = {message["outcome"] for message in run.of("finalized")}
    dropped = f", {run.dropped_ms} ms dropped" if run.dropped_ms else ""
    transcribed = {
        word for final in run.of("final_transcript") for word in final["transcript"].split() if word[0] == "n"
    }
    partly = "drained" if draining is not None else "timeout" if "timeout" in outcomes else "incomplete"
    return ("whole" if len(transcribed) == len(numbers) else partly) + dropped


def _ended(cell: Cell, fatal: dict[str, Any]) -> str:
    # A session whose first connection does not open gets an error and ends: nothing was promised yet.
    opening = cell.moment in ("dialling", "before ready")
    assert opening or fatal["code"] in cell.case.ends, (
        f"the fault ended the session: {fatal['code']}: {fatal['message']}"
    )
    return f"ends: {fatal['code']}"
