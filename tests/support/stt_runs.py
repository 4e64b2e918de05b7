"""An extended STT client that sends numbered words and checks the transcripts against the promises of section 6."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator
from websockets.exceptions import ConnectionClosed

from support.running import Talk, talking

PACE = 20.0
RATE = 16_000
INIT: dict[str, Any] = {
    "type": "init",
    "config": {"sample_rate": RATE, "encoding": "linear16", "enable_partials": True},
}
KINDS = ("late", "early", "several", "without words", "from finalize")


def profile_of(kind: str, rng: random.Random) -> dict[str, Any]:
    """Return a profile that decides how upstream sends its finals."""
    profile: dict[str, Any] = {"endpoint_ms": 200, "final_ms": rng.choice([0, 5, 20])}
    match kind:
        case "late":
            profile |= {"final_ms": rng.choice([30, 60, 90])}
        case "several":
            profile |= {"finals": rng.choice([2, 4, 9])}
        case "without words":
            profile |= {"words": False}
        case "from finalize":
            profile |= {"from_finalize": True}
    return profile


def speech(rng: random.Random) -> tuple[list[int], bytes]:
    """Return numbered words of 100 to 300 ms with short pauses. Some of the words end an utterance."""
    numbers = list(range(1, rng.randint(20, 40)))
    words = [
        signal.SignalWord(
            n, frames=rng.randint(5, 15), gap=rng.choice([2, 3, 4]) if rng.random() < 0.85 else rng.randint(12, 30)
        )
        for n in numbers
    ]
    return numbers, signal.encode(words, RATE)


class Run:
    """One session of an extended client, with the messages that it received."""

    pace = PACE

    def __init__(self, talk: Talk, rng: random.Random) -> None:
        self.talk = talk
        self.rng = rng
        self.finalizes: list[str] = []
        self.updates: list[str] = []

    async def send_speech(self, pcm: bytes, *, update_at: float | None = None) -> None:
        """Send speech at a pace, with random finalizes and with an update at a position."""
        loop = asyncio.get_running_loop()
        start, sent, chunk = loop.time(), 0, self.rng.choice([320, 640, 1024, 3200, 641])
        while sent < len(pcm):
            if update_at is not None and sent >= update_at * len(pcm):
                update_at = None
                self.updates.append(f"u{len(self.updates)}")
                config = {"language": self.rng.choice(["de", "fr", "es"])}
                await self.talk.send({"type": "update", "id": self.updates[-1], "config": config})
            await self.talk.send(pcm[sent : sent + chunk])
            sent += chunk
            if self.rng.random() < 0.02:
                await self.finalize()
            await asyncio.sleep(start + sent / (2 * RATE) / self.pace - loop.time())

    async def finalize(self) -> None:
        self.finalizes.append(f"f{len(self.finalizes)}")
        await self.talk.send({"type": "finalize", "id": self.finalizes[-1]})

    async def finish(self) -> None:
        await self.finalize()
        await self.talk.send({"type": "close"})
        assert await self.talk.until_closed() == (1000, ""), self.talk.messages[-3:]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.talk.messages if message["type"] == kind]

    def check(self, numbers: list[int], *, exact: bool) -> None:
        """Check the transcripts and the answers against the speech that was sent."""
        transcribed = " ".join(final["transcript"] for final in self.of("final_transcript")).split()
        assert not [word for word in transcribed if word.startswith("frag")], transcribed
        expected = [f"n{number}" for number in numbers]
        assert list(dict.fromkeys(transcribed)) == expected, transcribed
        if exact:
            assert transcribed == expected
        answered = [message["finalize_id"] for message in self.of("finalized")]
        assert sorted(answered) == sorted(self.finalizes)
        assert [message["id"] for message in self.of("updated")] == self.updates
        covered = [final["covered_ms"] for final in self.of("final_transcript")]
        assert covered == sorted(covered)


async def one_run(url: str, simulator: Simulator, what: str, seed: int) -> int:
    rng = random.Random(f"{what} {seed}")
    kind = KINDS[seed % len(KINDS)]
    model = f"slng/simulator/signal:{what.replace(' ', '-')}-{seed}"
    simulator.inject(do="profile", when="upgrade", model=model, times=0, set=profile_of(kind, rng))
    numbers, pcm = speech(rng)
    length_ms = len(pcm) * 1000 // (2 * RATE)
    if "drop" in what:
        for nth in range(1, rng.choice([2, 3])):
            after = rng.randint(100, length_ms // 2)
            simulator.inject(do="drop", when="audio", model=model, connection=nth, after_ms=after)
    headers = {"Authorization": "Bearer any"}
    async with talking(url, "stt", model, headers, subprotocol="slng-sidecar.v1") as talk:
        run = Run(talk, rng)
        await talk.send(INIT)
        await talk.until("ready")
        reading = asyncio.create_task(_keep_reading(talk))
        await run.send_speech(pcm, update_at=rng.uniform(0.1, 0.8) if "update" in what else None)
        reading.cancel()
        await asyncio.wait([reading])
        await run.finish()
    try:
        run.check(numbers, exact=kind != "without words")
    except AssertionError as error:
        raise AssertionError(f"{what}, seed {seed}, finals {kind}: {error}") from None
    return len(simulator.log.of("stt", model))


async def _keep_reading(talk: Talk) -> None:
    while True:
        await talk.next_whenever()


class Troubled(Run):
    """The same for sessions whose upstream may fail permanently.

    Attributes:
        fatal: the error that ended the session, if there was one.
        dropped_ms: how much audio the sidecar reported as dropped.
    """

    def __init__(self, talk: Talk, rng: random.Random, *, pace: float = PACE, answer_within: float = 4) -> None:
        super().__init__(talk, rng)
        self.pace = pace
        self.fatal: dict[str, Any] | None = None
        self.dropped_ms = 0
        self._answer_within = answer_within
        self._unanswered: dict[str, float] = {}
        self.code = 0

    async def listen(self) -> None:
        """Read until the session ends."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                message = await self.talk.next_whenever()
                assert isinstance(message, dict), "an STT session sent audio"
                assert self.fatal is None, "something came after a fatal error"
                match message["type"]:
                    case "error" if message["fatal"]:
                        self.fatal = message
                    case "finalized":
                        name = message["finalize_id"]
                        took = loop.time() - self._unanswered.pop(name)  # once only
                        assert took < self._answer_within, f"{name} was answered after {took:.1f} s"
                    case "status":
                        self.dropped_ms += message.get("dropped_ms", 0)
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else 1006

    async def send_speech(self, pcm: bytes, *, update_at: float | None = None) -> None:
        with contextlib.suppress(ConnectionClosed):
            await super().send_speech(pcm, update_at=update_at)

    async def finalize(self) -> None:
        self._unanswered[f"f{len(self.finalizes)}"] = asyncio.get_running_loop().time()
        await super().finalize()

    async def end(self, listening: asyncio.Task[None], *, within: float = 15) -> None:
        """Send a finalize and a close, and wait for the end."""
        with contextlib.suppress(ConnectionClosed):
            await self.finalize()
            await self.talk.send({"type": "close"})
        async with asyncio.timeout(within):
            await listening
        assert (self.code == 1000) == (self.fatal is None), (self.code, self.fatal)

    def check(
        self, numbers: list[int], *, exact: bool, whole: bool = True, drained: bool = False, unreported: bool = False
    ) -> None:
        """Check the transcripts and the answers against the speech that was sent.

        Args:
            exact: whether no word may be transcribed twice.
            whole: whether every word must be transcribed, unless upstream sent no transcript for some audio.
            drained: whether the sidecar ended the session. Audio that was sent meanwhile gets no transcript.
            unreported: whether words may be missing without a report.
        """
        transcribed = " ".join(final["transcript"] for final in self.of("final_transcript")).split()
        words = [word for word in transcribed if not word.startswith("frag")]
        expected = [f"n{number}" for number in numbers]
        once = list(dict.fromkeys(words))
        assert once == [word for word in expected if word in once], transcribed
        if exact:
            assert words == once, transcribed
        if drained:
            assert list(self._unanswered) == self.finalizes[len(self.finalizes) - len(self._unanswered) :], (
                "a finalize was skipped"
            )
            assert self.fatal or not whole or once == expected[: len(once)], transcribed
        elif self.fatal is None:
            assert not self._unanswered, f"never answered: {list(self._unanswered)}"
            assert sorted(message["id"] for message in self.of("updated")) == sorted(self.updates)
            timeouts = [answer for answer in self.of("finalized") if answer["outcome"] == "timeout"]
            assert once == expected or not whole or self.dropped_ms, transcribed
            assert once == expected or unreported or self.dropped_ms or timeouts, (
                f"words are missing without a report: {transcribed}"
            )
            if whole and not self.dropped_ms:
                assert not [word for word in transcribed if word.startswith("frag") and word != "frag:0"], transcribed
        covered = [final["covered_ms"] for final in self.of("final_transcript")]
        assert covered == sorted(covered)
