"""Fifty sessions start and end under random faults, and nothing of them remains.

``SOAK_MINUTES`` is the duration (default 2). ``SOAK_SEED`` is the first seed (default 1).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from slng_sidecar.engines import signal
from support import stt_runs, tts_runs
from support.processes import serving, started
from support.running import Talk, talking
from websockets.exceptions import ConnectionClosed

MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))
SEED = os.environ.get("SOAK_SEED", "1")
WARM_UP_SECONDS = 25.0
BOTS = 25  # sessions of each kind
EXTENDED = "slng-sidecar.v1"
# Python keeps memory that it allocated once. Memory that grows with the number of sessions is a leak.
MEMORY_MARGIN = 24 << 20
SETTINGS: dict[str, Any] = {
    "SIDECAR_OPEN_TIMEOUT": "2",
    "SIDECAR_SEND_TIMEOUT": "2",
    "SIDECAR_CLOSE_TIMEOUT": "3",
    "SIDECAR_FIRST_AUDIO_TIMEOUT": "2",
    "SIDECAR_TERMINAL_TIMEOUT": "2",
    "SIDECAR_FINALIZE_TIMEOUT": "2",
    "SIDECAR_FINAL_LAG": "1",
    "SIDECAR_RECONNECT_SECONDS": "8",
    "SIDECAR_CONTEXT_IDLE": "10",
    "SIDECAR_SESSION_ROTATE": "6",
    "SIDECAR_MAX_MESSAGE": "1MB",
    # This makes every request for speech one dial of a WebSocket, which both sides count.
    "SLNG_HTTP_TTS": "websocket",
}
PROFILE = {"upgrade_ms": 30, "ready_ms": 10, "first_audio_ms": 20, "clear_ms": 20, "final_ms": 20, "idle_s": 0}

ACTIONS = ("drop", "close", "error", "stall", "mute", "stop_reading", "oversized", "refuse", "hang")
COUNTED = (
    "slng_sidecar_active_sessions",
    "slng_sidecar_standby_connections",
    "slng_sidecar_tasks",
    "process_open_fds",
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(60 * MINUTES + 240)]


def random_fault(rng: random.Random, kind: str) -> dict[str, Any]:
    """Return a random fault for the connections of a bot."""
    moments = ["accepted", "init", "ready", "audio", "audio", "audio", "close"]
    moments += ["text", "flush", "clear", "terminal"] if kind == "tts" else ["finalize", "final", "partial"]
    do = rng.choice([*ACTIONS, "drop", "drop", "close"])
    fault: dict[str, Any] = {"do": do, "kind": kind, "when": rng.choice(moments)}
    match do:
        case "close":
            fault["code"] = rng.choice([1001, 1008, 1011, 1012, 1013, 4000])
        case "error":
            fault["code"] = rng.choice(["rate_limit", "backend_error", "not_ready", "config_error", "auth_error"])
            fault["shape"] = rng.choice(["data", "top", "status_int", "message", "capitalised"])
            fault |= rng.choice([{}, {"then_close": 1011}])
        case "stall":
            fault["ms"] = rng.choice([50, 300, 1200])
        case "oversized":
            fault |= {"bytes": 2 << 20, "binary": rng.random() < 0.5}
        case "refuse":
            fault |= {"when": "upgrade", "status": rng.choice([401, 404, 429, 500, 503]), "body": {"error": "no"}}
        case "hang":
            fault["when"] = "upgrade"
    if fault["when"] == "audio":
        fault["after_ms"] = rng.randint(1, 1500)
    if rng.random() < 0.3:
        fault["connection"] = rng.choice([1, 2])
    return fault


Bot = Callable[["Soak", str, random.Random], Awaitable[str]]


@dataclass
class Soak:
    """The two processes, and what the bots observed."""

    sidecar: str
    simulator: str
    http: httpx.AsyncClient
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    scripts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def inject(self, *faults: dict[str, Any]) -> list[int]:
        answer = await self.http.post(f"{self.simulator}/_sim/faults", json=list(faults))
        assert answer.status_code == 201, answer.text
        return [fault["id"] for fault in answer.json()["faults"]]

    async def remove_faults(self, ids: list[int]) -> None:
        for number in ids:
            await self.http.delete(f"{self.simulator}/_sim/faults/{number}")

    async def metrics(self) -> dict[str, float]:
        """Return the sidecar's metrics, with the series of each name added up."""
        found: dict[str, float] = {}
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.sidecar}/metrics")).text
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    async def dials(self) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            found: int = (await client.get(f"{self.simulator}/_sim/log")).json()["dials"]
            return found

    async def until_idle(self) -> dict[str, float]:
        """Wait until no session is left and nothing changes, for at most 30 s, and return the metrics."""
        same, last = 0, None
        until = asyncio.get_running_loop().time() + 30
        while True:
            await asyncio.sleep(0.2)
            metrics = await self.metrics()
            now = [metrics[name] for name in COUNTED]
            same, last = same + 1 if now == last else 0, now
            gone = same >= 10 and not any(now[:2])
            if gone or asyncio.get_running_loop().time() > until:
                return metrics

    async def run(self, name: str, seconds: float) -> None:
        """Run all bots for a time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        bots: list[Bot] = [transcribe_extended, transcribe_plain, speak_extended, speak_plain, speak_over_http]
        shares = [17, 8, 17, 5, 3]

        async def run_bots(bot: Bot) -> None:
            while loop.time() < until:
                number = next(self.numbers)
                model = f"slng/simulator/signal:soak-{number}"
                seed = f"{SEED} {name} {number} {bot.__name__}"
                try:
                    outcome = await bot(self, model, random.Random(seed))
                    self.outcomes[f"{bot.__name__}: {outcome}"] += 1
                except Exception as error:
                    self.broken.append(f"{seed}: {error!r}; {self.scripts.get(model)}")
                self.scripts.pop(model, None)

        await asyncio.gather(*(run_bots(bot) for bot, share in zip(bots, shares, strict=True) for _ in range(share)))

    async def with_faults(self, model: str, kind: str, rng: random.Random, profile: dict[str, Any]) -> list[int]:
        faults = [random_fault(rng, kind) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        self.faults.update(fault["do"] for fault in faults)
        if any(fault["do"] == "mute" for fault in faults):
            # A clean close instead of a terminal counts as the end, and upstream's silence looks the same.
            profile = {**profile, "after_turn": "open"}
        self.scripts[model] = [profile, *faults]
        return await self.inject(
            {"do": "profile", "when": "upgrade", "model": model, "times": 0, "set": profile},
            *({**fault, "model": model} for fault in faults),
        )


async def speak_extended(soak: Soak, model: str, rng: random.Random) -> str:
    profile = {
        "terminal": rng.choice(["audio_end", "flushed", "both", "twice", "is_final"]),
        "pace": rng.choice([20, 100]),
        "after_turn": rng.choice(["open", "open", "close", "spent"]),
        "late_audio_ms": rng.choice([0, 40]),
    }
    ids = await soak.with_faults(model, "tts", rng, profile)
    try:
        async with talking(soak.sidecar, "tts", model, subprotocol=EXTENDED) as talk:
            run = tts_runs.Troubled(talk, rng)
            await talk.send({**tts_runs.INIT, "standby": rng.random() < 0.4})
            listening = asyncio.create_task(run.listen())
            await run.act(rng.choice([*tts_runs.SORTS, "update and clear"]))
            await run.finish(listening, within=40)
        run.check(may_fail=True)
        if run.fatal:
            return str(run.fatal["code"])
        return "some failed" if any(numbers.reason == "failed" for numbers in run.contexts.values()) else "whole"
    finally:
        await soak.remove_faults(ids)


async def transcribe_extended(soak: Soak, model: str, rng: random.Random) -> str:
    kind = rng.choice(["late", "early", "several", "from finalize", "without words"])
    ids = await soak.with_faults(model, "stt", rng, stt_runs.profile_of(kind, rng))
    numbers, pcm = stt_runs.speech(rng)
    try:
        async with talking(soak.sidecar, "stt", model, subprotocol=EXTENDED) as talk:
            run = stt_runs.Troubled(talk, rng, pace=3, answer_within=6)
            await talk.send({**stt_runs.INIT, "standby": rng.random() < 0.4})
            listening = asyncio.create_task(run.listen())
            await run.send_speech(pcm, update_at=rng.choice([None, rng.uniform(0.1, 0.8)]))
            await run.end(listening, within=40)
        # A "timeout" is allowed: a silent upstream may transcribe nothing of the audio that it received.
        does = {fault.get("do") for fault in soak.scripts[model]}
        silent = does & {"mute", "stall", "stop_reading"}
        # Words are not promised either if they come after a final without word times that was taken for the last
        # answer.
        timed = kind != "without words"
        run.check(numbers, exact=timed, whole=timed and not silent, unreported=not timed or "mute" in does)
        return run.fatal["code"] if run.fatal else "ended"
    finally:
        await soak.remove_faults(ids)


async def speak_plain(soak: Soak, model: str, rng: random.Random) -> str:
    """Speak turns one after the other. Each turn has its own words, in order, and one end."""
    ids = await soak.with_faults(model, "tts", rng, {"pace": 100})
    failed = 0
    try:
        async with talking(soak.sidecar, "tts", model) as talk:
            await talk.send(tts_runs.INIT)
            for turn in range(rng.randint(1, 4)):
                expected = list(range(100 * turn + 1, 100 * turn + rng.randint(3, 9)))
                talk.audio.clear()
                await talk.send(
                    {"type": "text", "text": " ".join(f"n{number}" for number in expected)}, {"type": "flush"}
                )
                while True:
                    async with asyncio.timeout(30):
                        message = await talk.next_whenever()
                    kind = message["type"] if isinstance(message, dict) else "audio"
                    if kind in ("audio_end", "flushed", "error"):
                        break
                found = signal.decode(bytes(talk.audio), tts_runs.RATE)
                numbers = [word.number for word in found]
                assert numbers == expected[: len(numbers)], f"turn {turn}: {numbers} of {expected}"
                assert all(word.whole for word in found[:-1])
                if kind == "error":
                    failed += 1
                    return "failed"
                assert numbers == expected, f"turn {turn}: {numbers} of {expected}"
            await talk.send({"type": "close"})
            assert (await talk.until_closed())[0] == 1000
            return "whole"
    except ConnectionClosed:
        return "closed"
    finally:
        await soak.remove_faults(ids)


async def until_closed(talk: Talk) -> int:
    while True:
        try:
            await talk.next_whenever()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006


async def transcribe_plain(soak: Soak, model: str, rng: random.Random) -> str:
    ids = await soak.with_faults(model, "stt", rng, stt_runs.profile_of("early", rng))
    numbers, pcm = stt_runs.speech(rng)
    try:
        async with talking(soak.sidecar, "stt", model) as talk:
            await talk.send(stt_runs.INIT)
            listening = asyncio.create_task(until_closed(talk))
            run = stt_runs.Run(talk, rng)
            run.pace = 3
            try:
                await run.send_speech(pcm)
                await run.finalize()
                await talk.send({"type": "close"})
            except ConnectionClosed:
                pass
            async with asyncio.timeout(40):
                code = await listening
        transcribed = [word for text in talk.finals() for word in text.split() if not word.startswith("frag")]
        expected = [f"n{number}" for number in numbers]
        assert transcribed == [word for word in expected if word in transcribed], transcribed
        if code == 1000:
            answers = [message for message in talk.messages if message.get("from_finalize")]
            assert len(answers) == len(run.finalizes)
        return str(code)
    finally:
        await soak.remove_faults(ids)


async def speak_over_http(soak: Soak, model: str, rng: random.Random) -> str:
    ids = await soak.with_faults(model, "tts", rng, {"pace": 100})
    expected = list(range(1, rng.randint(5, 30)))
    body = {
        "model": model,
        "input": " ".join(f"n{number}" for number in expected),
        "voice": "v0",
        "response_format": "pcm",
    }
    audio = bytearray()
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=40) as client,
            client.stream("POST", f"{soak.sidecar}/v1/audio/speech", json=body) as reply,
        ):
            if reply.status_code != 200:
                await reply.aread()
                return f"{reply.status_code} {reply.json()['error']['code']}"
            whole = True
            try:
                async for piece in reply.aiter_raw():
                    audio += piece
            except httpx.RemoteProtocolError:
                whole = False
        found = signal.decode(bytes(audio), 24_000)
        numbers = [word.number for word in found]
        assert numbers == expected if whole else numbers == expected[: len(numbers)], (
            f"{numbers} of {expected}, whole: {whole}"
        )
        return "whole" if whole else "broke off"
    finally:
        await soak.remove_faults(ids)


async def test_fifty_sessions_under_random_faults_leave_nothing_behind() -> None:
    sets = [part for name, value in PROFILE.items() for part in ("--set", f"{name}={value}")]
    async with started("simulate", "--port", "0", "--speech", "signal", *sets) as running:
        simulator = (await running.says(r"at (ws://\S+)")).group(1)
        async with (
            serving(SLNG_API_KEY="a-key-of-slng", SLNG_BASE_URL=simulator, **SETTINGS) as gateway,
            httpx.AsyncClient(trust_env=False) as http,
        ):
            soak = Soak(gateway.url, simulator.replace("ws:", "http:"), http)
            await soak.run("warm up", WARM_UP_SECONDS)
            before = await soak.until_idle()
            await soak.run("soak", 60 * MINUTES)
            after = await soak.until_idle()
            dials = await soak.dials()
    sessions = sum(soak.outcomes.values())
    print(f"\n{sessions} sessions, {dials} dials, {sum(soak.faults.values())} faults: {dict(soak.faults)}")
    for outcome, count in sorted(soak.outcomes.items()):
        print(f"{count:6} {outcome}")
    for name in (*COUNTED, "process_resident_memory_bytes"):
        print(f"{name}: {before[name]:.0f} after the warm-up, {after[name]:.0f} in the end")
    assert not soak.broken, f"{len(soak.broken)} of {sessions} sessions broke a promise:\n" + "\n".join(
        soak.broken[:10]
    )
    assert after["slng_sidecar_tasks"] == before["slng_sidecar_tasks"]
    assert after["process_open_fds"] == before["process_open_fds"]
    assert after["process_resident_memory_bytes"] < before["process_resident_memory_bytes"] + MEMORY_MARGIN
    # The sidecar counts every dial, and every dial that opened or failed. A connection that was retired before it
    # reached the network is counted, although nobody saw it.
    answered = after["slng_sidecar_upstream_open_seconds_count"] + after["slng_sidecar_upstream_dial_failures_total"]
    assert answered <= dials <= after["slng_sidecar_upstream_dials_total"] <= 1.1 * dials
    assert sessions > 10 * MINUTES * BOTS
