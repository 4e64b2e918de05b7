"""The simulator from the command line: alone, or as a child process of ``serve --simulate``."""

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
from typer.core import TyperCommand
from typing_extensions import override

from slng_sidecar.cli.address import SidecarAddress
from slng_sidecar.config import Settings, secrets_of
from slng_sidecar.keys import Secrets
from slng_sidecar.telemetry.log import setup_logging

if TYPE_CHECKING:
    from slng_sidecar.simulator import SimulatorOptions

SIMULATED_KEY = "simulated"
"""The key that ``serve --simulate`` sends to the simulator."""

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_ASK_SECONDS = 5.0
_SPEECHES = ("auto", "real", "signal", "tone")
# A test compares them with those of the engines, which are not imported for --help.
_SYNTHESIZERS = ("hibari", "flite", "espeak", "signal", "tone")
_RECOGNIZERS = ("moonshine", "pocketsphinx", "signal", "script")


class SimulateCommand(TyperCommand):
    """The command ``simulate``, whose help names the engines that are installed here."""

    @override
    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from slng_sidecar.engines.selection import Engines

        engines = Engines()
        self.epilog = f"Engines in use here: {engines.synthesizer_title}; {engines.recognizer_title}."
        super().format_help(ctx, formatter)


class SimulatorFailed(Exception):
    """Raised when the simulator cannot run. The text says why and what to do."""


def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 chooses a free one.")] = 9100,
    speech: Annotated[
        str,
        typer.Option(
            help="Both engines at once. auto: real speech if installed; real: require it; signal: numbered signal; "
            "tone: tone and script."
        ),
    ] = "auto",
    synthesizer: Annotated[
        str | None, typer.Option(help=f"The synthesizer, in place of --speech: {', '.join(_SYNTHESIZERS)}.")
    ] = None,
    recognizer: Annotated[
        str | None, typer.Option(help=f"The recognizer, in place of --speech: {', '.join(_RECOGNIZERS)}.")
    ] = None,
    faults: Annotated[
        Path | None, typer.Option(help="A JSON file with faults; docs/reference/simulator.md describes them.")
    ] = None,
    manner: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: a field of the route profile, such as ready_ms=600. Repeatable."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="An API key to accept. Repeatable. Default: every key but 'bad'.")
    ] = None,
    script: Annotated[
        Path | None, typer.Option(help="A file with one line for each utterance of the scripted recognizer.")
    ] = None,
    regional: Annotated[
        bool, typer.Option("--regional", help="Behave as a regional gateway, which has no HTTP bridge (405).")
    ] = False,
    max_connections: Annotated[int, typer.Option(min=0, help="The most WebSockets at once; 0 for no limit.")] = 0,
    tcp: Annotated[
        bool, typer.Option("--tcp", help="Send connections through a TCP proxy, which the fault 'tcp' needs.")
    ] = False,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Run the simulator alone. Point SLNG_BASE_URL or any SLNG client at it."""
    # Imported here, so that commands which do not need it start faster.
    from slng_sidecar.net.serving import CannotListen
    from slng_sidecar.simulator import BadFault, BadProfile, SimulatorOptions, parse_profile, parse_script

    for option, given, accepted in (
        ("--speech", speech, _SPEECHES),
        ("--synthesizer", synthesizer, _SYNTHESIZERS),
        ("--recognizer", recognizer, _RECOGNIZERS),
    ):
        if given is not None and given not in accepted:
            _fail(f"{option} takes {', '.join(accepted)}, not {given!r}.")
    setup_logging("warning", "text")
    try:
        options = SimulatorOptions(
            speech=speech,  # type: ignore[arg-type] # checked above
            synthesizer=synthesizer,
            recognizer=recognizer,
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
    """The simulator in a child process: its address, and its synthesizer and recognizer."""

    url: str
    description: str


@contextlib.asynccontextmanager
async def child() -> AsyncIterator[RunningSimulator]:
    """Run the simulator in a child process while the block runs, so that its work does not slow the gateway.

    The child ends when its standard input is closed, so it does not outlive a parent that was killed.

    Raises:
        SimulatorFailed: the simulator did not start.
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
            started = json.loads(line)
        except (TimeoutError, ValueError):
            raise SimulatorFailed("The simulator did not start; its own message is above.") from None
        yield RunningSimulator(started["url"], started["description"])
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def beside(url: str) -> AsyncIterator[RunningSimulator]:
    """Use a simulator that runs already, in place of a child process."""
    yield RunningSimulator(url, f"at {url}")


async def is_simulator(url: str) -> bool:
    """Return whether a simulator answers at an address, which may be a WebSocket URL."""
    if url.startswith("ws"):
        url = "http" + url.removeprefix("ws")
    try:
        async with SidecarAddress(url).http(timeout=_ASK_SECONDS) as http:
            reply = await http.get("/_sim/faults")
            answer = reply.json() if reply.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False
    return isinstance(answer, dict) and "faults" in answer


def settings_for(settings: Settings, url: str) -> tuple[Settings, Secrets]:
    """Return the settings with a simulator as upstream and without the real key."""
    changed: dict[str, Any] = {
        "slng_base_url": url,
        "slng_api_key": SecretStr(SIMULATED_KEY),
        "sidecar_simulate": True,
    }
    settings = settings.model_copy(update=changed)
    return settings, secrets_of(settings)


async def _simulate(options: SimulatorOptions, host: str, port: int, *, child: bool) -> None:
    from slng_sidecar.net.serving import signals
    from slng_sidecar.simulator import running_simulator

    with signals() as received:
        async with running_simulator(options, host, port) as simulator:
            engines = simulator.engines
            description = f"voice: {engines.synthesizer_title}, recognizer: {engines.recognizer_title}"
            if child:
                # The parent ends the child. Ctrl-C at the terminal reaches both, so the child must ignore it.
                print(json.dumps({"url": simulator.url, "description": description}), flush=True)
                await _input_closed()
            else:
                print(f"SLNG simulator at {simulator.url} ({description})", file=sys.stderr, flush=True)
                await received.stop.wait()


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
