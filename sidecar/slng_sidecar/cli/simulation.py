"""The simulator from the command line: alone, and as a child of ``serve --simulate``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
import typer
from pydantic import SecretStr

from slng_sidecar.cli.address import SidecarAddress
from slng_sidecar.config import Settings, secrets_of
from slng_sidecar.keys import Secrets
from slng_sidecar.telemetry.log import setup_logging

if TYPE_CHECKING:
    from slng_sidecar.simulator import SimulatorOptions

SIMULATED_KEY = "simulated"
"""What ``serve --simulate`` shows the simulator as its key."""

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_ASK_SECONDS = 5.0
_SPEECHES = ("auto", "real", "signal", "tone")


class SimulatorFailed(Exception):
    """Raised when the simulator cannot run; its text says why and what to do."""


def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any.")] = 9100,
    speech: Annotated[
        str,
        typer.Option(
            help="auto: real voices and ears where installed; real: insist on them; signal: numbered words; tone."
        ),
    ] = "auto",
    faults: Annotated[
        Path | None, typer.Option(help="JSON file with faults; docs/reference/simulator.md has the language.")
    ] = None,
    manner: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: a route's manner, such as ready_ms=600. Repeatable.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="An API key that is taken; repeatable. Else all but 'bad'.")
    ] = None,
    script: Annotated[
        Path | None, typer.Option(help="File with a line for each utterance, for the ear that hears by script.")
    ] = None,
    regional: Annotated[bool, typer.Option("--regional", help="Be a regional gateway: no HTTP bridge (405).")] = False,
    max_connections: Annotated[int, typer.Option(min=0, help="Refuse more WebSockets at once; 0 is no limit.")] = 0,
    tcp: Annotated[
        bool, typer.Option("--tcp", help="Let connections come through a TCP proxy, which the fault 'tcp' needs.")
    ] = False,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Run the stand-in for SLNG alone; point SLNG_BASE_URL or any SLNG client at it."""
    # Here and not above, so that commands which need none of it start faster.
    from slng_sidecar.net.serving import CannotListen
    from slng_sidecar.simulator import BadFault, BadProfile, SimulatorOptions, parse_profile, parse_script

    if speech not in _SPEECHES:
        _fail(f"--speech takes {', '.join(_SPEECHES)}, not {speech!r}.")
    setup_logging("warning", "text")
    try:
        options = SimulatorOptions(
            speech=speech,  # type: ignore[arg-type] # checked above
            keys=tuple(key or ()),
            regional=regional,
            max_connections=max_connections,
            tcp=tcp,
            overrides=parse_profile(manner or ()),
            faults=tuple(parse_script(_read_json(faults))) if faults else (),
        )
        if script:
            options = replace(options, script=tuple(_read(script).splitlines()))
        asyncio.run(_simulate(options, host, port, child=child))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (SimulatorFailed, BadFault, BadProfile, CannotListen, RuntimeError) as error:
        _fail(str(error))


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """The child: where it listens, and with which voice and ear."""

    url: str
    description: str


@contextlib.asynccontextmanager
async def child() -> AsyncIterator[RunningSimulator]:
    """Run the simulator in a process of its own while the block runs, so that its work slows nothing here.

    The child ends with its standard input, so it does not outlive a parent that was killed.

    Raises:
        SimulatorFailed: it did not start.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "slng_sidecar", "simulate", "--port", "0", "--child",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
            told = json.loads(line)
        except (TimeoutError, ValueError):
            raise SimulatorFailed("The simulator did not start; what it says is above.") from None
        yield RunningSimulator(told["url"], told["description"])
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def beside(url: str) -> AsyncIterator[RunningSimulator]:
    """Take a simulator that somebody else runs, in the place of a child."""
    yield RunningSimulator(url, f"at {url}")


async def is_simulator(url: str) -> bool:
    """Tell whether a simulator answers at an address, which may begin with ``ws`` as upstream's may."""
    if url.startswith("ws"):
        url = "http" + url.removeprefix("ws")
    try:
        async with SidecarAddress(url).http(timeout=_ASK_SECONDS) as http:
            reply = await http.get("/_sim/faults")
            told = reply.json() if reply.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False
    return isinstance(told, dict) and "faults" in told


def settings_for(settings: Settings, url: str) -> tuple[Settings, Secrets]:
    """Point the settings at a simulator; the real key stays out of it."""
    changed: dict[str, Any] = {
        "slng_base_url": url,
        "slng_api_key": SecretStr(SIMULATED_KEY),
        "sidecar_simulate": True,
    }
    settings = settings.model_copy(update=changed)
    return settings, secrets_of(settings)


async def _simulate(options: SimulatorOptions, host: str, port: int, *, child: bool) -> None:
    from slng_sidecar.net.serving import signals
    from slng_sidecar.simulator import describe, running_simulator

    voice, ear = describe(options.speech)
    description = f"voice: {voice}, ear: {ear}"
    with signals() as told:
        async with running_simulator(options, host, port) as simulator:
            if child:
                # Its parent ends it, so a Ctrl-C at the terminal, which reaches both, must not do so first.
                print(json.dumps({"url": simulator.url, "description": description}), flush=True)
                await _input_closed()
            else:
                print(f"SLNG simulator at {simulator.url} ({description})", file=sys.stderr, flush=True)
                await told.stop.wait()


async def _input_closed() -> None:
    """Wait for the end of standard input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        await reader.read()
    finally:
        transport.close()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SimulatorFailed(f"{path} cannot be read: {error}.") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise SimulatorFailed(f"{path} is not JSON: {error}.") from None


def _fail(text: str) -> NoReturn:
    print(f"slng-sidecar: {text}", file=sys.stderr)
    raise typer.Exit(1)
