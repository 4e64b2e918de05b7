"""The image under faults: sidecar and simulator run as containers on one network, and the clients run here.

Under each fault the promises of section 6 of the contract hold: no word is lost, each context ends once, nothing hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
from pipecat.frames.frames import ErrorFrame, TTSAudioRawFrame, TTSSpeakFrame, VADUserStoppedSpeakingFrame
from pipecat_slng_sidecar import SlngSTTService, SlngTTSService
from support.bots import SIGNAL, free_port, speak_at_pace
from support.numbered_signal import words
from support.official import audio_frames, have_ended, played, transcribed, was_transcribed
from support.pipelines import running_pipeline
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

HARDENED: dict[str, Any] = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "read_only": True}


@dataclass(frozen=True)
class Containers:
    """Both containers, and the address of the sidecar."""

    network: Any  # Docker's own types, which are untyped
    sidecar: Any
    simulator: Any
    url: str


def wait_for(url: str, path: str = "/readyz") -> None:
    deadline = time.monotonic() + 60
    with httpx.Client(trust_env=False, base_url=url, timeout=5) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(path).status_code == 200:
                    return
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.1)


@pytest.fixture
def containers(images: None) -> Iterator[Containers]:
    settings = {
        "SLNG_API_KEY": "a-key-of-slng",
        "SLNG_BASE_URL": "ws://upstream:9100",
        "SIDECAR_ALLOW_INSECURE": "true",
    }
    # A fixed port, so that the sidecar has the same port after a restart.
    port = free_port()
    with Network() as network:
        simulator = (
            DockerContainer("slng-sidecar-simulator")
            .with_command("simulate --host 0.0.0.0 --speech signal --set upgrade_ms=50 --set ready_ms=50")
            .with_network(network)
            .with_network_aliases("upstream")
            .with_kwargs(**HARDENED)
        )
        sidecar = DockerContainer("slng-sidecar").with_network(network).with_bind_ports(8765, port)
        sidecar = sidecar.with_kwargs(**HARDENED).with_tmpfs_mount("/tmp")
        for name, value in settings.items():
            sidecar = sidecar.with_env(name, value)
        with simulator, sidecar:
            url = f"http://127.0.0.1:{port}"
            wait_for(url)
            yield Containers(network._network, sidecar.get_wrapped_container(), simulator.get_wrapped_container(), url)
    # Testcontainers leaves its connections to the engine open.
    for docker in (network._docker, simulator.get_docker_client(), sidecar.get_docker_client()):
        docker.client.close()


@contextlib.asynccontextmanager
async def later(seconds: float, *calls: Any) -> AsyncIterator[None]:
    """Make calls to Docker one after the other while the block runs, the first one after some seconds."""

    async def act() -> None:
        await asyncio.sleep(seconds)
        for call in calls:
            if isinstance(call, float):
                await asyncio.sleep(call)
            else:
                await asyncio.to_thread(call)

    task = asyncio.create_task(act())
    try:
        yield
    finally:
        await task


async def transcribe_through(containers: Containers, fault: contextlib.AbstractAsyncContextManager[None]) -> None:
    """Speak for some seconds with the fault in the middle. Every word must be transcribed once."""
    stt = SlngSTTService(sidecar_url=containers.url, model=SIGNAL)
    async with running_pipeline(stt) as pipeline:
        async with fault:
            await speak_at_pace(pipeline, audio_frames(range(1, 25)))
        await pipeline.send(VADUserStoppedSpeakingFrame())
        await pipeline.until(partial(was_transcribed, pipeline, "n24"))
        assert transcribed(pipeline) == words(1, 24)


async def test_a_restarted_upstream_loses_no_word(containers: Containers) -> None:
    await transcribe_through(containers, later(1, partial(containers.simulator.restart, timeout=0)))


async def test_a_frozen_upstream_loses_no_word(containers: Containers) -> None:
    await transcribe_through(containers, later(1, containers.simulator.pause, 2.0, containers.simulator.unpause))


async def test_a_cut_network_loses_no_word(containers: Containers) -> None:
    network = containers.network
    reconnect = partial(network.connect, containers.simulator, aliases=["upstream"])
    await transcribe_through(
        containers, later(1, partial(network.disconnect, containers.simulator, force=True), 1.0, reconnect)
    )


async def test_a_killed_sidecar_loses_no_word_and_causes_one_error(containers: Containers) -> None:
    stt = SlngSTTService(sidecar_url=containers.url, model=SIGNAL)
    async with running_pipeline(stt) as pipeline:
        async with later(1, containers.sidecar.kill, containers.sidecar.start):
            await speak_at_pace(pipeline, audio_frames(range(1, 25)))
        await pipeline.send(VADUserStoppedSpeakingFrame())
        await pipeline.until(partial(was_transcribed, pipeline, "n24"))
        assert transcribed(pipeline) == words(1, 24)
        assert len(pipeline.up(ErrorFrame)) == 1


async def test_sigterm_under_load_cuts_no_utterance(containers: Containers) -> None:
    bots = [SlngTTSService(sidecar_url=containers.url, model=SIGNAL) for _ in range(10)]
    stt = SlngSTTService(sidecar_url=containers.url, model=SIGNAL)
    async with contextlib.AsyncExitStack() as stack:
        listening = await stack.enter_async_context(running_pipeline(stt))
        pipelines = [await stack.enter_async_context(running_pipeline(bot)) for bot in bots]
        for pipeline in pipelines:
            await pipeline.send(TTSSpeakFrame(" ".join(words(1, 25))))
        for pipeline in pipelines:
            await pipeline.until(partial(pipeline.down, TTSAudioRawFrame))
        # Speech without a pause, so it has no quiet second before its end.
        async with later(1, partial(containers.sidecar.kill, "SIGTERM")):
            await speak_at_pace(listening, audio_frames(range(1, 25)))
        await listening.send(VADUserStoppedSpeakingFrame())
        await listening.until(partial(was_transcribed, listening, "n24"))
        assert transcribed(listening) == words(1, 24)
        for pipeline in pipelines:
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert played(pipeline) == list(range(1, 26))
        assert (await asyncio.to_thread(containers.sidecar.wait, timeout=60))["StatusCode"] == 0
        assert b"draining: 11 sessions" in containers.sidecar.logs()


async def test_the_container_runs_without_root_and_writes_nothing(containers: Containers) -> None:
    user = containers.sidecar.exec_run(["id", "-u"]).output.decode().strip()
    assert user == "10001"
    assert containers.sidecar.exec_run(["touch", "/opt/venv/x"]).exit_code != 0
    assert not containers.sidecar.diff()
    tools = containers.sidecar.exec_run(
        ["sh", "-c", "ls /opt/venv/bin | grep -E '^(pip|gcc|cc)' ; command -v gcc cc make"]
    )
    assert tools.output.decode().strip() == ""


async def test_docker_reports_the_container_as_healthy(containers: Containers) -> None:
    async with asyncio.timeout(40):
        while True:
            await asyncio.to_thread(containers.sidecar.reload)
            if containers.sidecar.attrs["State"]["Health"]["Status"] == "healthy":
                return
            await asyncio.sleep(0.5)
