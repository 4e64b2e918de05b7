"""Every setting, with its description and its checks, in one place.

The environment takes precedence, then an env file, then a TOML file, then the defaults. Each secret can also be given
as ``<NAME>_FILE``, the path of a file that contains it. That file is read again when it changes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from typing_extensions import override

from slng_sidecar.keys import SECRETS, ConfigError, Secrets, clean_secret, secret_files
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import (
    GLOBAL_GATEWAY,
    check_base_url,
    check_model,
    check_region,
    check_world_part,
    gateway_of_world_part,
    shown_url,
)

DEFAULT_WORLD_PART = "us-east"

FIXED = frozenset(
    {
        *SECRETS,
        "sidecar_simulate",
        "slng_proxy_from_env",
        "sidecar_host",
        "sidecar_port",
        "sidecar_uds",
        "sidecar_uds_mode",
        "sidecar_allow_insecure",
        "sidecar_allowed_hosts",
        "sidecar_allowed_origins",
        "sidecar_max_message",
        "sidecar_standby",
        "sidecar_open_timeout",
        "sidecar_send_timeout",
        "sidecar_first_audio_timeout",
        "sidecar_terminal_timeout",
        "sidecar_close_timeout",
        "sidecar_log_format",
    }
)
"""Settings that need a restart. SIGHUP reads the others again, and secrets in files are read again by themselves."""


def _split_list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_table(value: object) -> object:
    """Parse ``name=value, name=value``. Pydantic refuses what has no ``=``."""
    parts = _split_list(value)
    if isinstance(parts, list):
        pairs = [part.partition("=") for part in parts]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("it takes name=value pairs, separated by commas")
        return {name.strip(): target.strip() for name, _, target in pairs}
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_list)]
Aliases = Annotated[dict[str, str], NoDecode, BeforeValidator(_split_table)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The settings of the sidecar. A field's name in capitals is its environment variable."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, validate_default=False)

    # Upstream
    slng_api_key: SecretStr | None = Field(None, description="the SLNG API key; required without --simulate")
    slng_provider_key: SecretStr | None = Field(None, description="your provider's key (BYOK) for external routes")
    slng_stt_provider_key: SecretStr | None = Field(
        None, description="the same for STT only; takes precedence over SLNG_PROVIDER_KEY"
    )
    slng_tts_provider_key: SecretStr | None = Field(
        None, description="the same for TTS only; takes precedence over SLNG_PROVIDER_KEY"
    )
    slng_world_part: str | None = Field(
        None, description="the regional gateway {world_part}.api.slng.ai; us-east if unset"
    )
    slng_base_url: str | None = Field(
        None, description="a base URL that replaces the gateway, such as https://api.slng.ai"
    )
    slng_region_override: str | None = Field(
        None, description="the region header of the global gateway; takes precedence over the world part"
    )
    slng_world_part_override: str | None = Field(None, description="the world part header of the global gateway")
    slng_stt_model: str = Field("slng/deepgram/nova:3-en", description="the STT model if a request names none")
    slng_tts_model: str = Field("slng/deepgram/aura:2-en", description="the TTS model if a request names none")
    slng_tts_voice: str | None = Field(None, description="the voice if a request names none")
    sidecar_model_aliases: Aliases = Field(
        {},
        description="other names for models, such as tts-1=slng/deepgram/aura:2-en; others without / are the default",
    )
    sidecar_voice_aliases: Aliases = Field(
        {},
        description="other names for voices, such as alloy=aura-2-thalia-en; OpenAI's other names are SLNG_TTS_VOICE",
    )
    slng_http_tts: Literal["auto", "bridge", "websocket"] = Field("auto", description="how HTTP TTS goes upstream")
    slng_flush: Literal["standalone", "inline"] = Field(
        "standalone", description="how the end of a turn is sent upstream: as a flush message, or with the last text"
    )
    slng_key_passthrough: bool = Field(
        False, description="send the client's bearer token upstream instead of SLNG_API_KEY"
    )
    sidecar_simulate: bool = Field(False, description="start the simulator and use it as upstream, like --simulate")
    slng_proxy_from_env: bool = Field(False, description="use HTTPS_PROXY and the like on the way upstream")

    # Where the sidecar listens, and for whom
    sidecar_host: str = Field("127.0.0.1", description="the address to listen on; beyond loopback it requires a token")
    sidecar_port: int = Field(8765, ge=0, le=65_535, description="the port to listen on; 0 chooses a free port")
    sidecar_uds: Path | None = Field(None, description="a Unix socket to listen on instead")
    sidecar_uds_mode: str = Field("0600", description="the permissions of that socket; 0660 lets its group connect")
    sidecar_token: SecretStr | None = Field(None, description="the token that local clients must send as bearer")
    sidecar_allow_insecure: bool = Field(False, description="listen beyond loopback without a token")
    sidecar_allowed_hosts: Names = Field(
        (), description="Host names to accept besides those of loopback, if no token is set"
    )
    sidecar_allowed_origins: Names = Field((), description="web origins that may connect")

    # Speech
    sidecar_confidence_threshold: float = Field(
        0.5, ge=0, le=1, description="transcripts with a lower confidence are dropped"
    )
    sidecar_confidence_scope: Literal["all", "partials", "off"] = Field("all", description="what the threshold is for")
    sidecar_plain_terminal: Literal["upstream", "audio_end", "flushed"] = Field(
        "upstream", description="the message that ends a TTS turn for plain clients"
    )
    sidecar_finalize_timeout: Seconds = Field(3, description="seconds after which a finalize is answered in any case")
    sidecar_final_lag: Seconds = Field(2, description="seconds that a final may lag behind its audio")
    sidecar_replay_seconds: Seconds = Field(30, description="seconds of audio kept for a replay")
    sidecar_reconnect_seconds: Seconds = Field(60, description="seconds for which a lost upstream is dialled again")
    sidecar_context_idle: Seconds = Field(60, description="seconds after which a context without a flush ends")
    sidecar_session_rotate: Seconds = Field(1500, description="seconds after which a session moves to a new connection")
    sidecar_standby: int = Field(0, ge=0, le=100, description="standby connections for each set of connection settings")

    # Limits
    sidecar_max_sessions: int = Field(200, ge=1, description="the most sessions at once; more get 429")
    sidecar_max_sessions_per_client: int = Field(
        0, ge=0, description="the most sessions at once of one client address; 0 for no limit"
    )
    sidecar_max_text: int = Field(10_000, ge=1, description="characters of one text")
    sidecar_max_upload: ByteSize = Field(ByteSize(200_000_000), description="the largest uploaded file, such as 200 MB")
    sidecar_max_audio: Seconds = Field(14_400, description="the most seconds of audio in an uploaded file")
    sidecar_max_message: ByteSize = Field(ByteSize(16_777_216), description="the largest WebSocket message, either way")

    # Deadlines
    sidecar_init_timeout: Seconds = Field(30, description="seconds that a client may take to send init")
    sidecar_open_timeout: Seconds = Field(15, description="seconds from dialling upstream to its ready")
    sidecar_send_timeout: Seconds = Field(5, description="seconds that a peer may take to accept data")
    sidecar_first_audio_timeout: Seconds = Field(30, description="seconds from a turn's text to its first audio")
    sidecar_terminal_timeout: Seconds = Field(
        15, description="seconds without audio after which a turn counts as stuck"
    )
    sidecar_transcript_timeout: Seconds = Field(
        60, description="seconds without a word, after a file's last audio, after which upstream counts as stuck"
    )
    sidecar_close_timeout: Seconds = Field(
        5, description="seconds that a close may take, including what is left to deliver"
    )
    sidecar_drain_seconds: Seconds = Field(30, description="seconds that running sessions have to end after SIGTERM")

    # Logs
    sidecar_log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    sidecar_log_format: Literal["text", "json"] = Field("text", description="how it is logged")

    @field_validator("slng_world_part")
    @classmethod
    def _known_world_part(cls, value: str | None) -> str | None:
        return None if value is None else _in_words(check_world_part, value)

    @field_validator("slng_base_url")
    @classmethod
    def _usable_base_url(cls, value: str | None) -> str | None:
        return None if value is None else check_base_url(value)

    @field_validator("slng_region_override", "slng_world_part_override")
    @classmethod
    def _usable_region(cls, value: str | None) -> str | None:
        return None if value is None else _in_words(lambda text: check_region(text, "It"), value)

    @field_validator("slng_stt_model", "slng_tts_model")
    @classmethod
    def _usable_model(cls, value: str) -> str:
        return _in_words(check_model, value)

    @field_validator("sidecar_uds_mode")
    @classmethod
    def _usable_mode(cls, value: str) -> str:
        if not re.fullmatch("0?[0-7]{3}", value):
            raise ValueError("it takes permissions in octal, such as 0660")
        return value

    @field_validator("sidecar_model_aliases")
    @classmethod
    def _usable_aliases(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: _in_words(check_model, model) for name, model in value.items()}

    @field_validator(*SECRETS)
    @classmethod
    def _usable_secret(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(clean_secret(value.get_secret_value()))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        override = self.slng_region_override or self.slng_world_part_override
        if override and self.slng_world_part and not self.slng_base_url:
            raise ValueError(
                f"SLNG_WORLD_PART={self.slng_world_part} selects a regional gateway, which ignores the region "
                f"override {override!r}. Unset one of them."
            )
        return self

    @override
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, _TomlSource(settings_cls)

    @property
    def gateway(self) -> str:
        """The base URL of the gateway, unless a client asks for another one."""
        if self.slng_base_url:
            return self.slng_base_url
        if self.slng_world_part:
            return gateway_of_world_part(self.slng_world_part)
        if self.slng_region_override or self.slng_world_part_override:
            return GLOBAL_GATEWAY
        return gateway_of_world_part(DEFAULT_WORLD_PART)

    @property
    def fixed_gateway(self) -> str | None:
        """The setting by which the operator fixed the gateway, for error messages; None if it is not fixed."""
        if self.slng_base_url and not self.sidecar_simulate:
            return f"SLNG_BASE_URL={self.slng_base_url}"
        if self.slng_world_part and not self.sidecar_simulate:
            return f"SLNG_WORLD_PART={self.slng_world_part}"
        return None

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines could reach the sidecar."""
        if self.sidecar_uds is not None or self.sidecar_host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.sidecar_host).is_loopback
        except ValueError:
            return True


def secrets_of(settings: Settings, files: Mapping[str, Path] | None = None) -> Secrets:
    """Return the secrets among the settings, and those in files, which take precedence.

    Raises:
        ConfigError: a file cannot be used.
    """
    return Secrets({name: getattr(settings, name) for name in SECRETS}, files)


def load_settings(
    config_file: Path | None = None, env_file: Path | None = None, **overrides: object
) -> tuple[Settings, Secrets]:
    """Read the settings from the environment, an env file, a TOML file and the defaults, in this order.

    Args:
        config_file: a TOML file whose keys are the settings' names, in lower or upper case.
        env_file: a file of NAME=value lines, below the environment.
        overrides: settings from the command line, which take precedence over all others; None for not given.

    Raises:
        ConfigError: a setting cannot be used. The text names each one.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if env_file is not None and not env_file.is_file():
        env_file = None
    if env_file is not None:
        try:
            env_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The env file {env_file} cannot be read: {error}.") from None
    if config_file is not None and not config_file.is_file():
        raise ConfigError(f"There is no settings file {config_file}.")

    class Sources(Settings):
        model_config = SettingsConfigDict(env_file=env_file, toml_file=config_file)

    try:
        settings = Sources(**given)  # type: ignore[arg-type] # pydantic checks them
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from None
    files = secret_files(env_file)
    for name in files:
        if getattr(settings, name) is not None:
            raise ConfigError(f"Both {name.upper()} and {name.upper()}_FILE are set; unset one of them.")
    return settings, secrets_of(settings, files)


def reloaded(now: Settings, fresh: Settings) -> tuple[Settings, list[str], list[str]]:
    """Apply the settings that may change while the sidecar runs.

    Returns:
        The new settings, the names of those that changed, and the names of those that need a restart to change.
    """
    changed = [name for name in Settings.model_fields if getattr(now, name) != getattr(fresh, name)]
    taken = {name: getattr(fresh, name) for name in changed if name not in FIXED}
    return now.model_copy(update=taken), sorted(taken), sorted(set(changed) & FIXED)


def check_exposure(settings: Settings, secrets: Secrets) -> None:
    """Check that a sidecar which other machines can reach has a token.

    Raises:
        ConfigError: it has none. The text says what to set.
    """
    if settings.listens_beyond_loopback and secrets.token is None and not settings.sidecar_allow_insecure:
        raise ConfigError(
            f"SIDECAR_HOST={settings.sidecar_host} is reachable from other machines, and no SIDECAR_TOKEN is set, so "
            "anyone there could spend your SLNG key. Set SIDECAR_TOKEN, or SIDECAR_ALLOW_INSECURE=true if the network "
            "is closed."
        )


class _TomlSource(TomlConfigSettingsSource):
    """Reads the TOML file that ``model_config`` names. The names of settings may be in either case."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        try:
            values = {name.lower(): value for name, value in super()._read_file(file_path).items()}
        except OSError as error:
            raise ConfigError(f"The settings file {file_path} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise ConfigError(f"The settings file {file_path} is not TOML: {error}.") from None
        if unknown := sorted(values.keys() - Settings.model_fields.keys()):
            raise ConfigError(
                f"{file_path}: {', '.join(unknown)}: no such setting. 'slng-sidecar serve --help' lists the settings."
            )
        return values


def _in_words(check: Any, value: str) -> str:
    """Run a check of the protocol, and raise its error as the ``ValueError`` that pydantic expects."""
    try:
        checked: str = check(value)
    except GatewayError as error:
        raise ValueError(error.message) from None
    return checked


def _explain(item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"]).upper()
    text = str(item["msg"]).removeprefix("Value error, ")
    shown = ""
    if name.lower() not in SECRETS and isinstance(item.get("input"), (str, int, float)):
        value = str(item["input"])
        shown = f"={(shown_url(value) if name == 'SLNG_BASE_URL' else value)[:60]}"
    return f"{name}{shown}: {text}" if name else text
