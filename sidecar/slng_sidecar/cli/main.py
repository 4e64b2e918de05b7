"""The commands and their options."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from slng_sidecar import __version__
from slng_sidecar.cli import check as checking
from slng_sidecar.cli import simulation
from slng_sidecar.cli.address import DEFAULT_URL, SidecarAddress
from slng_sidecar.cli.say_and_transcribe import SpeechFailed, say, transcribe
from slng_sidecar.config import Settings, check_exposure, load_settings
from slng_sidecar.keys import SECRETS, ConfigError, Secrets
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import check_model
from slng_sidecar.telemetry.log import setup_logging

T = TypeVar("T")

app = typer.Typer(
    name="slng-sidecar",
    help="A gateway on localhost between voice bots and SLNG. It holds the keys and the connections.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A TOML file with settings. The environment takes precedence.")
]
EnvFile = Annotated[Path | None, typer.Option("--env-file", help="A file of NAME=value lines. It may be missing.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The sidecar, as http://host:port or unix:/path. Default: SLNG_SIDECAR_URL, or SIDECAR_UDS, or "
        f"SIDECAR_HOST and SIDECAR_PORT, or {DEFAULT_URL}.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", help="The sidecar's token, if it needs one. SIDECAR_TOKEN is safer: others can see the command line."
    ),
]


def main() -> None:
    """Run the command line."""
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        print(f"slng-sidecar {__version__}")
        raise typer.Exit


def _settings_help() -> str:
    rows = ["Settings, from the environment (each secret also as NAME_FILE), then --env-file, then --config:"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "" if default in (None, (), {}) or name in SECRETS else f" [default: {_plain(default)}]"
        rows.append(f"{name.upper()}: {field.description}{shown}")
    return "\n\n".join(rows)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@app.command(epilog=_settings_help())
def serve(
    config: ConfigFile = None,
    env_file: EnvFile = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Use a simulator instead of SLNG. It needs no key and no network.")
    ] = False,
    simulate_without_key: Annotated[
        bool, typer.Option("--simulate-without-key", help="Use a simulator if no SLNG key is set.")
    ] = False,
    simulator: Annotated[
        str | None,
        typer.Option(help="Use the simulator at this address if no SLNG key is set. If none answers, do not start."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on. Overrides SIDECAR_HOST.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port to listen on; 0 chooses a free one. Overrides SIDECAR_PORT."),
    ] = None,
    uds: Annotated[Path | None, typer.Option(help="A Unix socket to listen on instead. Overrides SIDECAR_UDS.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run the gateway."""
    settings, secrets = _load(config, env_file, host=host, port=port, uds=uds, log_level=log_level)
    setup_logging(settings.sidecar_log_level, settings.sidecar_log_format)
    simulate = simulate or settings.sidecar_simulate
    beside: str | None = None
    if not simulate and not settings.slng_key_passthrough and secrets.api_key is None:
        simulate, beside = simulate_without_key or simulator is not None, simulator
        if not simulate:
            _fail(
                "There is no SLNG key. Set SLNG_API_KEY or SLNG_API_KEY_FILE. To try the sidecar without a key: "
                "slng-sidecar serve --simulate"
            )
        if beside is not None and not _run(simulation.is_simulator(beside)):
            _fail(
                f"There is no SLNG key, and no simulator answers at {beside}. Write the key into a file and set "
                "SLNG_API_KEY_FILE to its path; with Docker, in .env (see .env.example). To try it without a key: "
                "docker compose --profile offline up"
            )
    # Imported here because FastAPI takes half a second: other commands, and errors in the settings, do not wait for it.
    from slng_sidecar.net.serving import CannotListen
    from slng_sidecar.server.run import listen

    try:
        check_exposure(settings, secrets)
        sock = listen(settings)
    except (ConfigError, CannotListen) as error:
        _fail(str(error))
    given = {"host": host, "port": port, "uds": uds, "log_level": log_level}

    def reread() -> Settings:
        return load_settings(config, env_file, **{f"sidecar_{name}": value for name, value in given.items()})[0]

    _run(_serve(settings, secrets, sock, reread, simulate=simulate, beside=beside))


async def _serve(
    settings: Settings,
    secrets: Secrets,
    sock: Any,
    reread: Callable[[], Settings],
    *,
    simulate: bool,
    beside: str | None,
) -> None:
    from slng_sidecar.server.run import address_of, serve_gateway

    address = address_of(sock)
    if not simulate:
        await serve_gateway(
            settings,
            secrets,
            sock,
            lambda: _say(f"slng-sidecar {__version__} at {address}, upstream {settings.gateway}"),
            reread,
        )
        return
    async with simulation.child() if beside is None else simulation.beside(beside) as simulator:
        settings, secrets = simulation.settings_for(settings, simulator.url)
        _say(f"A simulator stands in for SLNG ({simulator.description}).")
        await serve_gateway(
            settings,
            secrets,
            sock,
            lambda: _say(f"slng-sidecar {__version__} at {address}"),
            lambda: simulation.settings_for(reread(), simulator.url)[0],
        )


app.command(name="simulate", cls=simulation.SimulateCommand)(simulation.simulate)


@app.command()
def check(config: ConfigFile = None, env_file: EnvFile = None) -> None:
    """Check the settings and upstream. This opens and closes one STT and one TTS session."""
    settings, secrets = _load(config, env_file)
    if not _run(checking.check(settings, secrets, print)):
        raise typer.Exit(1)


@app.command()
def wait(
    url: Url = None,
    token: Token = None,
    timeout: Annotated[float, typer.Option(min=0, help="The most seconds to wait.")] = 30,
) -> None:
    """Wait until a sidecar is ready, for start scripts and health checks."""
    if reason := _run(checking.wait(_address(url, token), timeout)):
        _fail(reason)


@app.command(name="say")
def say_command(
    text: Annotated[str, typer.Argument(help="The text to say; - reads it from standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The WAV file to write; - is standard output.")],
    model: Annotated[str | None, typer.Option(help="The TTS model. Default: SLNG_TTS_MODEL.")] = None,
    voice: Annotated[str | None, typer.Option(help="One of the model's voices.")] = None,
    language: Annotated[str | None, typer.Option(help="Language code such as en.")] = None,
    speed: Annotated[float | None, typer.Option(min=0.1, max=10, help="The speed, if the model supports it.")] = None,
    sample_rate: Annotated[int, typer.Option(min=8000, max=48000, help="Hz.")] = 24_000,
    url: Url = None,
    token: Token = None,
) -> None:
    """Synthesize a text into a WAV file, through a running sidecar."""
    if text == "-":
        text = sys.stdin.read()
    config: dict[str, Any] = {"sample_rate": sample_rate}
    if language:
        config["language"] = language
    if speed:
        config["speed"] = speed
    seconds = _run(say(_address(url, token), text, _model(model, "slng_tts_model"), voice, config, out))
    if str(out) != "-":
        _say(f"{out}: {seconds:.1f} s of speech")


@app.command(name="transcribe")
def transcribe_command(
    file: Annotated[Path, typer.Argument(help="A WAV file with 16-bit PCM and one channel.")],
    model: Annotated[str | None, typer.Option(help="The STT model. Default: SLNG_STT_MODEL.")] = None,
    language: Annotated[str | None, typer.Option(help="Language code such as en.")] = None,
    pace: Annotated[
        float, typer.Option(min=0, help="The speed of sending: 1 is real time, 0 as fast as the sidecar accepts it.")
    ] = 1.0,
    url: Url = None,
    token: Token = None,
) -> None:
    """Transcribe a WAV file, one line for each utterance, through a running sidecar."""
    address = _address(url, token)
    _run(
        transcribe(address, file, _model(model, "slng_stt_model"), language, pace, lambda text: print(text, flush=True))
    )


def _load(config: Path | None, env_file: Path | None, **overrides: Any) -> tuple[Settings, Secrets]:
    try:
        return load_settings(config, env_file, **{f"sidecar_{name}": value for name, value in overrides.items()})
    except ConfigError as error:
        _fail(str(error))


def _address(url: str | None, token: str | None) -> SidecarAddress:
    try:
        return SidecarAddress.of(url, token)
    except ValueError as error:
        _fail(str(error))


def _model(given: str | None, setting: str) -> str:
    model = given or os.environ.get(setting.upper()) or Settings.model_fields[setting].default
    try:
        return check_model(model)
    except GatewayError as error:
        _fail(error.message)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ConfigError, SpeechFailed, simulation.SimulatorFailed) as error:
        _fail(str(error))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(text: str) -> NoReturn:
    _say(f"slng-sidecar: {text}")
    raise typer.Exit(1)
