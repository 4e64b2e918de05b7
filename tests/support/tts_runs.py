"""An extended TTS client that sends numbered words and checks their audio against the promises of section 6."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator
from websockets.exceptions import ConnectionClosed

from support.running import Talk, talking

RATE = 8000
INIT: dict[str, Any] = {"type": "init", "voice": "v0", "config": {"sample_rate": RATE, "encoding": "linear16"}}
SORTS = ("drop", "update", "drop during update", "clear", "clear during drop")


@dataclass
class ReceivedContext:
    """A context as the client received it."""

    audio: bytearray = field(default_factory=bytearray)
    reason: str | None = None
    errors: int = 0


class Run:
    """An extended client that sends numbered words in several contexts and checks what it receives.

    Attributes:
        words: the words of each context, in the order in which they were sent.
        contexts: what came of each context.
        cleared: the contexts that a clear was meant for.
    """

    def __init__(self, talk: Talk, rng: random.Random) -> None:
        self.talk = talk
        self.rng = rng
        self.words: dict[str, list[int]] = {}
        self.open: list[str] = []
        self.contexts: dict[str, ReceivedContext] = {}
        self.cleared: set[str] = set()
        self.clears: Counter[str | None] = Counter()
        self.updates: list[str] = []
        self.answers: list[str] = []
        self.streaming: str | None = None
        self.changed = asyncio.Event()

    # What the client sends

    async def act(self, sort: str) -> None:
        """Send some contexts and flush each one at some point, with the updates and clears of this kind of run between
        them.
        """
        rng = self.rng
        steps = ["text"] * rng.randint(6, 12)
        if "update" in sort:
            steps += ["update"] * rng.randint(1, 3)
        if "clear" in sort:
            steps += [rng.choice(["clear one", "clear all"]) for _ in range(rng.randint(1, 2))]
        rng.shuffle(steps)
        for step in ["text", *steps]:
            match step:
                case "text":
                    await self.text()
                case "update":
                    self.updates.append(f"u{len(self.updates)}")
                    await self.talk.send({"type": "update", "id": self.updates[-1], "voice": f"v{rng.randint(0, 4)}"})
                case _:
                    await self.clear(every=step == "clear all")
            # Any moment is possible, so some time passes, or none.
            await asyncio.sleep(rng.choice([0, 0, 0, 0.003, 0.02, 0.15]))
        for name in tuple(self.open):
            await self.flush(name)

    async def text(self) -> None:
        if not self.open or self.rng.random() < 0.3:
            name = f"c{len(self.words)}"
            self.words[name] = []
            self.open.append(name)
        else:
            name = self.rng.choice(self.open)
        count = sum(map(len, self.words.values()))
        numbers = list(range(count + 1, count + self.rng.randint(2, 5)))
        self.words[name] += numbers
        await self.talk.send({"type": "text", "context_id": name, "text": " ".join(f"n{n}" for n in numbers)})
        if self.rng.random() < 0.5:
            await self.flush(name)

    async def flush(self, name: str) -> None:
        if name in self.open:
            self.open.remove(name)
            await self.talk.send({"type": "flush", "context_id": name})

    async def clear(self, *, every: bool) -> None:
        name = None if every else self.rng.choice(list(self.words))
        self.clears[name] += 1
        self.cleared |= set(self.words) if name is None else {name}
        self.open = [other for other in self.open if other not in self.cleared]
        await self.talk.send({"type": "clear", **({} if name is None else {"context_id": name})})

    # What the client receives

    async def listen(self) -> None:
        try:
            while True:
                self._check_message(await self.receive())
                self.changed.set()
        except ConnectionClosed:
            self.changed.set()

    async def receive(self) -> dict[str, Any] | bytes:
        return await self.talk.next()

    def _check_message(self, message: dict[str, Any] | bytes) -> None:
        if isinstance(message, bytes):
            assert self.streaming is not None, "audio came between contexts"
            self.contexts[self.streaming].audio += message
            return
        name = str(message.get("context_id"))
        match message["type"]:
            case "audio_start":
                assert self.streaming is None
                assert name not in self.contexts or self.contexts[name].reason is None
                self.streaming = name
                self.contexts.setdefault(name, ReceivedContext())
            case "audio_end":
                context = self.contexts.setdefault(name, ReceivedContext())
                assert context.reason is None, "a context ended twice"
                context.reason = message["reason"]
                assert message["duration_ms"] == round(len(context.audio) / (2 * RATE / 1000))
                if name == self.streaming:
                    self.streaming = None
                else:
                    assert not context.audio
            case "error":
                assert message["fatal"] is False, message
                self.contexts.setdefault(message["context_id"], ReceivedContext()).errors += 1
            case "cleared":
                self.clears[message.get("context_id")] -= 1
            case "updated":
                assert not message["rejected"]
                self.answers.append(message["id"])

    @property
    def over(self) -> bool:
        ended = [name for name, context in self.contexts.items() if context.reason]
        return len(ended) == len(self.words) and len(self.answers) == len(self.updates)

    async def finish(self, listening: asyncio.Task[None]) -> None:
        """Wait until everything has ended, then close the session."""
        async with asyncio.timeout(30):
            while not self.over and not listening.done():
                self.changed.clear()
                await self.changed.wait()
            await self.talk.send({"type": "close"})
            await listening
        assert self.talk.websocket.close_code == 1000

    def check(self) -> None:
        """Check the audio and the answers against the texts that were sent."""
        assert sorted(self.answers) == self.updates
        assert not +self.clears
        assert not -self.clears
        assert self.contexts.keys() == self.words.keys()
        for name, context in self.contexts.items():
            found = signal.decode(bytes(context.audio), RATE)
            numbers, expected = [word.number for word in found], self.words[name]
            assert numbers == expected[: len(numbers)], f"{name} ({context.reason}): {numbers} of {expected}"
            whole = [word.whole for word in found]
            match context.reason:
                case "completed":
                    assert all(whole)
                    assert numbers == expected, f"{name}: {numbers} of {expected}"
                case "failed":
                    assert all(whole[:-1])
                    assert context.audio, "a context failed although none of it was delivered"
                    assert context.errors == 1
                case "cleared":
                    assert all(whole[:-1])
                    assert name in self.cleared
                case reason:
                    raise AssertionError(reason)


def prepare(simulator: Simulator, model: str, sort: str, rng: random.Random) -> None:
    """Set the profile and the faults of a model."""
    profile = {
        "terminal": rng.choice(["audio_end", "flushed", "both", "twice", "flushed_first", "is_final"]),
        "pace": rng.choice([0, 20, 100]),
        "chunk_ms": rng.choice([20, 100]),
        "ready_ms": rng.choice([0, 30]),
        "after_turn": rng.choice(["open", "open", "open", "close", "spent"]),
        "clear_ms": rng.choice([0, 20]),
        "clear_answer": rng.choice(["cleared", "cleared", "audio_end"]),
        "late_audio_ms": rng.choice([0, 0, 40]),
    }
    simulator.inject(do="profile", when="upgrade", model=model, times=0, set=profile)
    if "drop" not in sort:
        return
    when = rng.choice(["text", "flush", "audio", "audio", "audio", "terminal"])
    after = {"after_ms": rng.randint(1, 600)} if when == "audio" else {}
    simulator.inject(do="drop", model=model, when=when, connection=rng.choice([1, 1, 2]), **after)


async def one_run(url: str, simulator: Simulator, sort: str, seed: int) -> Run:
    """Run one session. Check it only when no other session runs, since the check takes long."""
    rng = random.Random(f"{sort} {seed}")
    model = f"slng/simulator/signal:{sort.replace(' ', '-')}-{seed}"
    prepare(simulator, model, sort, rng)
    async with talking(url, "tts", model, subprotocol="slng-sidecar.v1") as talk:
        run = Run(talk, rng)
        await talk.send(INIT)
        listening = asyncio.create_task(run.listen())
        await run.act(sort)
        await run.finish(listening)
    return run


class Troubled(Run):
    """The same for sessions whose upstream may fail permanently, or may refuse settings.

    Attributes:
        fatal: the error that ended the session, if there was one.
    """

    def __init__(self, talk: Talk, rng: random.Random) -> None:
        super().__init__(talk, rng)
        self.fatal: dict[str, Any] | None = None
        self._clearing: deque[set[str]] = deque()
        self._quiet: set[str] = set()

    async def act(self, sort: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await super().act(sort)

    async def receive(self) -> dict[str, Any] | bytes:
        return await self.talk.next_whenever()

    async def clear(self, *, every: bool) -> None:
        self._clearing.append(set(self.words))
        await super().clear(every=every)

    def _check_message(self, message: dict[str, Any] | bytes) -> None:
        assert self.fatal is None, "something came after a fatal error"
        if isinstance(message, bytes):
            assert self.streaming not in self._quiet, "audio of a context after it was cleared"
            return super()._check_message(message)
        match message["type"]:
            case "error" if message["fatal"]:
                assert self.streaming is None
                self.fatal = message
            case "error" if "context_id" not in message:
                pass
            case "cleared":
                known, name = self._clearing.popleft(), message.get("context_id")
                self._quiet |= known if name is None else {name}
                super()._check_message(message)
            case "updated":
                self.answers.append(message["id"])
            case _:
                super()._check_message(message)
        return None

    async def finish(self, listening: asyncio.Task[None], *, within: float = 30) -> None:
        """Wait until everything or the session itself has ended, then close the session."""
        try:
            async with asyncio.timeout(within):
                while not self.over and not listening.done():
                    self.changed.clear()
                    await self.changed.wait()
                with contextlib.suppress(ConnectionClosed):
                    await self.talk.send({"type": "close"})
                await listening
        except TimeoutError:
            waiting = [name for name in self.words if self.contexts.get(name, ReceivedContext()).reason is None]
            raise AssertionError(f"these never ended: {waiting} of {list(self.words)}") from None
        assert (self.talk.websocket.close_code == 1000) == (self.fatal is None), self.talk.websocket.close_code

    def check(self, *, may_fail: bool = False) -> None:
        """Check the audio and the answers against the texts that were sent.

        Args:
            may_fail: whether a context may fail although none of its audio was delivered, as after two losses.
        """
        if self.fatal is None:
            assert sorted(self.answers) == sorted(self.updates)
            assert not +self.clears
            assert not -self.clears
            assert self.contexts.keys() == self.words.keys()
        else:
            # Messages that were sent while the sidecar closed the session get no answer.
            assert set(self.answers) <= set(self.updates)
            assert self.contexts.keys() <= self.words.keys()
        for name, context in self.contexts.items():
            found = signal.decode(bytes(context.audio), RATE)
            numbers, expected = [word.number for word in found], self.words[name]
            assert numbers == expected[: len(numbers)], f"{name} ({context.reason}): {numbers} of {expected}"
            assert all(word.whole for word in found[:-1]), f"{name}: {[word.text for word in found]}"
            match context.reason:
                case "completed":
                    assert numbers == expected, f"{name}: {numbers} of {expected}"
                    assert all(word.whole for word in found), f"{name}: {[word.text for word in found]}"
                case "failed":
                    assert context.errors or self.fatal, "a context failed without an error"
                    assert may_fail or self.fatal or context.audio, f"{name} failed although none of it was delivered"
                case "cleared":
                    assert name in self.cleared
                case reason:
                    raise AssertionError(f"{name}: {reason}")
