from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from slng_sidecar.config import FIXED, Settings, load_settings, secrets_of
from slng_sidecar.keys import SECRETS, ConfigError, Secrets
from slng_sidecar.protocol.route import GLOBAL_GATEWAY, WORLD_PARTS

KEY = "slng_cu_0123456789"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in tuple(os.environ):
        if name.upper().startswith(("SLNG_", "SIDECAR_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def loaded(**given: Any) -> Settings:
    return load_settings(**given)[0]


def complaint(**given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(**given)
    return str(caught.value)


# Where settings come from


def test_the_defaults_are_those_of_the_contract() -> None:
    settings, secrets = load_settings()

    assert settings.gateway == "https://us-east.api.slng.ai"
    assert (settings.slng_stt_model, settings.slng_tts_model, settings.slng_tts_voice) == (
        "slng/deepgram/nova:3-en", "slng/deepgram/aura:2-en", None,
    )  # fmt: skip
    assert (settings.slng_http_tts, settings.slng_flush, settings.slng_key_passthrough) == ("auto", "standalone", False)
    assert (settings.sidecar_host, settings.sidecar_port, settings.sidecar_uds) == ("127.0.0.1", 8765, None)
    assert (settings.sidecar_confidence_threshold, settings.sidecar_confidence_scope) == (0.5, "all")
    assert settings.sidecar_plain_terminal == "upstream"
    assert (settings.sidecar_finalize_timeout, settings.sidecar_final_lag, settings.sidecar_replay_seconds) == (
        3,
        2,
        30,
    )
    assert (settings.sidecar_reconnect_seconds, settings.sidecar_context_idle, settings.sidecar_session_rotate) == (
        60, 60, 1500,
    )  # fmt: skip
    assert (settings.sidecar_standby, settings.sidecar_max_sessions, settings.sidecar_drain_seconds) == (0, 200, 30)
    assert (settings.sidecar_log_level, settings.sidecar_log_format) == ("info", "text")
    assert (settings.sidecar_max_text, settings.sidecar_max_upload) == (10_000, 200_000_000)
    assert (secrets.api_key, secrets.token, secrets.provider_key("stt"), secrets.provider_key("tts")) == (None,) * 4


def test_each_source_takes_precedence_over_the_next(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    toml = write("s.toml", "sidecar_port = 1\nsidecar_max_text = 1\nsidecar_standby = 1\nsidecar_max_sessions = 1\n")
    env = write("s.env", "SIDECAR_PORT=2\nSIDECAR_MAX_TEXT=2\nSIDECAR_STANDBY=2\n")
    monkeypatch.setenv("SIDECAR_PORT", "3")
    monkeypatch.setenv("SIDECAR_MAX_TEXT", "3")

    settings = loaded(config_file=toml, env_file=env, sidecar_port=4)

    assert settings.sidecar_port == 4  # the command line
    assert settings.sidecar_max_text == 3  # the environment
    assert settings.sidecar_standby == 2  # the env file
    assert settings.sidecar_max_sessions == 1  # the TOML file
    assert settings.sidecar_drain_seconds == 30  # the default


def test_an_absent_override_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_PORT", "3")

    assert loaded(sidecar_port=None, sidecar_host=None).sidecar_port == 3


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    monkeypatch.setenv("SIDECAR_PORT", "")
    monkeypatch.setenv("SLNG_API_KEY", "")
    monkeypatch.setenv("SLNG_BASE_URL", "")
    monkeypatch.setenv("SLNG_API_KEY_FILE", "")

    settings, secrets = load_settings(config_file=write("s.toml", "sidecar_port = 1"))

    assert settings.sidecar_port == 1
    assert settings.slng_base_url is None
    assert secrets.api_key is None


def test_keys_of_the_toml_file_may_be_in_upper_case(write: Any) -> None:
    assert loaded(config_file=write("s.toml", "SIDECAR_PORT = 1")).sidecar_port == 1


def test_a_missing_env_file_is_no_error(tmp_path: Path) -> None:
    assert loaded(env_file=tmp_path / ".env").sidecar_port == 8765


def test_other_variables_in_an_env_file_are_ignored(write: Any) -> None:
    assert loaded(env_file=write("s.env", "HOME=/x\nPATH=/y\nSIDECAR_PORT=2\n")).sidecar_port == 2


def test_lists_are_written_with_commas_or_as_lists(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    monkeypatch.setenv("SIDECAR_ALLOWED_HOSTS", " bot.local , , other ")
    toml = write("s.toml", 'sidecar_allowed_origins = ["https://a", "https://b"]')

    settings = loaded(config_file=toml)

    assert settings.sidecar_allowed_hosts == ("bot.local", "other")
    assert settings.sidecar_allowed_origins == ("https://a", "https://b")


@pytest.mark.parametrize(("text", "size"), [("200 MB", 200_000_000), ("1KiB", 1024), ("5", 5)])
def test_sizes_have_units(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("SIDECAR_MAX_UPLOAD", text)

    assert loaded().sidecar_max_upload == size


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        loaded().sidecar_port = 1


def test_every_setting_is_described_and_named_like_its_variable() -> None:
    for name, field in Settings.model_fields.items():
        assert name == name.lower()
        assert name.startswith(("slng_", "sidecar_"))
        assert field.description
    assert set(SECRETS) | FIXED <= Settings.model_fields.keys()


# Invalid settings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SLNG_WORLD_PART", "mars", "us-east"),
        ("SLNG_BASE_URL", "ftp://x", "base URL"),
        ("SLNG_REGION_OVERRIDE", "a b", "region"),
        ("SLNG_STT_MODEL", "nova", "slng/deepgram/nova:3-en"),
        ("SLNG_TTS_MODEL", "aura", "model"),
        ("SLNG_HTTP_TTS", "maybe", "auto"),
        ("SLNG_FLUSH", "maybe", "standalone"),
        ("SIDECAR_PORT", "99999", "65535"),
        ("SIDECAR_PORT", "http", "integer"),
        ("SIDECAR_PORT", "-1", "0"),
        ("SIDECAR_CONFIDENCE_THRESHOLD", "1.5", "1"),
        ("SIDECAR_CONFIDENCE_THRESHOLD", "nan", ""),
        ("SIDECAR_CONFIDENCE_SCOPE", "some", "partials"),
        ("SIDECAR_PLAIN_TERMINAL", "done", "audio_end"),
        ("SIDECAR_REPLAY_SECONDS", "0", "greater"),
        ("SIDECAR_REPLAY_SECONDS", "nan", ""),
        ("SIDECAR_OPEN_TIMEOUT", "inf", ""),
        ("SIDECAR_MAX_SESSIONS", "0", "1"),
        ("SIDECAR_MAX_UPLOAD", "many", "byte"),
        ("SIDECAR_LOG_LEVEL", "loud", "info"),
        ("SIDECAR_ALLOW_INSECURE", "perhaps", "boolean"),
        ("SIDECAR_UDS_MODE", "rw", "such as 0660"),
        ("SIDECAR_UDS_MODE", "0990", "such as 0660"),
        ("SIDECAR_UDS_MODE", "01777", "such as 0660"),
    ],
)
def test_an_invalid_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)

    text = complaint()

    assert f"{name}={value}: " in text
    assert expected in text


def test_all_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_PORT", "x")
    monkeypatch.setenv("SLNG_WORLD_PART", "mars")

    assert len(complaint().splitlines()) == 2


def test_an_unknown_key_of_the_toml_file_is_refused_by_name(write: Any) -> None:
    text = complaint(config_file=write("s.toml", "sidecar_prot = 1\n[sidecar]\nport = 1\n"))

    assert "s.toml" in text
    assert "sidecar_prot" in text
    assert "sidecar," in text


def test_a_missing_settings_file_is_refused_by_name(tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in complaint(config_file=tmp_path / "none.toml")
    assert str(tmp_path) in complaint(config_file=tmp_path)


def test_a_settings_file_that_is_not_toml_is_refused_by_name(write: Any) -> None:
    assert "s.toml is not TOML" in complaint(config_file=write("s.toml", "port: 1\n"))


def test_a_settings_file_that_cannot_be_read_is_refused_by_name(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("s.toml", "sidecar_port = 1")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # every file is readable for root

    assert complaint(config_file=path) == f"The settings file {path} cannot be read: Permission denied."


@pytest.mark.parametrize("name", ["s.toml", "s.env"])
def test_a_binary_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"SIDECAR_HOST=\xff\xfe\n")

    assert name in complaint(**{"config_file" if name == "s.toml" else "env_file": path})


# The gateway


@pytest.mark.parametrize(
    ("given", "gateway", "fixed"),
    [
        ({}, "https://us-east.api.slng.ai", None),
        ({"slng_world_part": "IN"}, "https://in.api.slng.ai", "SLNG_WORLD_PART=in"),
        ({"slng_base_url": "ws://127.0.0.1:9100/"}, "ws://127.0.0.1:9100", "SLNG_BASE_URL=ws://127.0.0.1:9100"),
        ({"slng_base_url": "api.slng.ai"}, "https://api.slng.ai", "SLNG_BASE_URL=https://api.slng.ai"),
        ({"slng_base_url": "ws://x", "slng_world_part": "in"}, "ws://x", "SLNG_BASE_URL=ws://x"),
        ({"slng_region_override": "eu-north-1"}, GLOBAL_GATEWAY, None),
        ({"slng_world_part_override": "eu"}, GLOBAL_GATEWAY, None),
        ({"slng_base_url": "ws://x", "slng_region_override": "eu-north-1"}, "ws://x", "SLNG_BASE_URL=ws://x"),
        ({"slng_base_url": "ws://x", "sidecar_simulate": True}, "ws://x", None),
    ],
)
def test_the_gateway_is_chosen_as_the_contract_says(given: dict[str, Any], gateway: str, fixed: str | None) -> None:
    settings = loaded(**given)

    assert settings.gateway == gateway
    assert settings.fixed_gateway == fixed


@pytest.mark.parametrize("world_part", WORLD_PARTS)
def test_every_world_part_has_its_gateway(world_part: str) -> None:
    assert loaded(slng_world_part=world_part).gateway == f"https://{world_part}.api.slng.ai"


@pytest.mark.parametrize("override", ["slng_region_override", "slng_world_part_override"])
def test_a_regional_gateway_and_an_override_that_it_ignores_are_refused_with_both_names(override: str) -> None:
    text = complaint(slng_world_part="in", **{override: "eu-north-1"})

    assert "SLNG_WORLD_PART=in" in text
    assert "eu-north-1" in text


def test_regions_are_written_as_upstream_wants_them() -> None:
    assert loaded(slng_region_override="EU-North-1,us-east-1").slng_region_override == "eu-north-1, us-east-1"


@pytest.mark.parametrize(
    ("host", "beyond"),
    [
        ("127.0.0.1", False), ("127.0.0.2", False), ("::1", False), ("localhost", False),
        ("0.0.0.0", True), ("::", True), ("192.168.1.2", True), ("sidecar.local", True),
    ],
)  # fmt: skip
def test_listening_beyond_loopback_is_recognized(host: str, beyond: bool) -> None:
    assert loaded(sidecar_host=host).listens_beyond_loopback is beyond
    assert not loaded(sidecar_host=host, sidecar_uds=Path("/run/s.sock")).listens_beyond_loopback


# Secrets


def read(secrets: Secrets) -> dict[str, str | None]:
    return {
        "slng_api_key": secrets.api_key,
        "slng_stt_provider_key": secrets.provider_key("stt"),
        "slng_tts_provider_key": secrets.provider_key("tts"),
        "sidecar_token": secrets.token,
    }


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("way", ["variable", "file", "file in env file", "toml"])
def test_every_secret_can_be_set_in_every_way(monkeypatch: pytest.MonkeyPatch, write: Any, name: str, way: str) -> None:
    given: dict[str, Any] = {}
    match way:
        case "variable":
            monkeypatch.setenv(name.upper(), f" {KEY}\n")
        case "file":
            monkeypatch.setenv(f"{name.upper()}_FILE", str(write("secret", f"{KEY}\n")))
        case "file in env file":
            given["env_file"] = write("s.env", f"{name.upper()}_FILE={write('secret', KEY)}\n")
        case "toml":
            given["config_file"] = write("s.toml", f'{name} = "{KEY}"')

    settings, secrets = load_settings(**given)

    expected = {"slng_stt_provider_key", "slng_tts_provider_key"} if name == "slng_provider_key" else {name}
    assert {name for name, value in read(secrets).items() if value == KEY} == expected
    assert repr(secrets) == f"Secrets({name})"
    assert KEY not in repr(settings) + str(settings) + repr(secrets) + settings.model_dump_json()


def test_a_secret_file_of_the_environment_takes_precedence_over_the_env_files(
    monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    env_file = write("s.env", f"SLNG_API_KEY_FILE={write('low', 'low-key')}\n")
    monkeypatch.setenv("SLNG_API_KEY_FILE", str(write("high", "high-key")))

    assert load_settings(env_file=env_file)[1].api_key == "high-key"


def test_the_more_specific_provider_key_takes_precedence() -> None:
    secrets = load_settings(slng_provider_key="wide", slng_tts_provider_key="narrow")[1]

    assert (secrets.provider_key("stt"), secrets.provider_key("tts")) == ("wide", "narrow")


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", ["two words", "line\nbreak", "tab\there", "schlüssel", "nul\x7f"])
def test_an_invalid_key_is_refused_by_name_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, write: Any, name: str, value: str
) -> None:
    monkeypatch.setenv(name.upper(), value)
    text = complaint()
    assert f"{name.upper()}: " in text
    assert value not in text

    monkeypatch.delenv(name.upper())
    monkeypatch.setenv(f"{name.upper()}_FILE", str(write("secret", value)))
    text = complaint()
    assert f"{name.upper()}_FILE=" in text
    assert "secret" in text
    assert value not in text


def test_a_secret_of_the_wrong_type_is_not_shown(write: Any) -> None:
    text = complaint(config_file=write("s.toml", "slng_api_key = 123456789"))

    assert "SLNG_API_KEY" in text
    assert "123456789" not in text


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_set_twice_is_refused_with_both_names(monkeypatch: pytest.MonkeyPatch, write: Any, name: str) -> None:
    monkeypatch.setenv(name.upper(), KEY)
    monkeypatch.setenv(f"{name.upper()}_FILE", str(write("secret", "other")))

    text = complaint()

    assert name.upper() in text
    assert f"{name.upper()}_FILE" in text
    assert KEY not in text


def test_a_missing_secret_file_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLNG_API_KEY_FILE", str(tmp_path / "none"))

    text = complaint()

    assert f"SLNG_API_KEY_FILE={tmp_path / 'none'}" in text
    assert "No such file" in text


def test_an_empty_secret_file_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    monkeypatch.setenv("SIDECAR_TOKEN_FILE", str(write("secret", "\n")))

    assert "SIDECAR_TOKEN_FILE=" in complaint()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_file_is_read_again_when_it_changes(monkeypatch: pytest.MonkeyPatch, write: Any, name: str) -> None:
    path = write("secret", "first-key")
    monkeypatch.setenv(f"{name.upper()}_FILE", str(path))
    secrets = load_settings()[1]
    assert "first-key" in read(secrets).values()

    path.write_text("second-key-longer")
    assert "second-key-longer" in read(secrets).values()

    path.with_suffix(".new").write_text("third-key-as-long")
    path.with_suffix(".new").replace(path)
    assert "third-key-as-long" in read(secrets).values()
    assert "second-key-longer" not in read(secrets).values()


def test_a_secret_file_rewritten_at_the_same_length_is_read_again(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    path = write("secret", "key-1")
    monkeypatch.setenv("SLNG_API_KEY_FILE", str(path))
    secrets = load_settings()[1]
    path.write_text("key-2")
    os.utime(path, ns=(1, 1))

    assert secrets.api_key == "key-2"


def test_the_last_secret_stays_in_use_if_its_file_vanishes_or_breaks(
    monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    path = write("secret", "first-key")
    monkeypatch.setenv("SLNG_API_KEY_FILE", str(path))
    secrets = load_settings()[1]

    path.unlink()
    assert secrets.api_key == "first-key"
    path.write_text("half a k")
    assert secrets.api_key == "first-key"
    path.write_bytes(b"\xff\xfe\xff")
    assert secrets.api_key == "first-key"
    path.write_text("")
    assert secrets.api_key == "first-key"
    path.write_text("second-key")
    assert secrets.api_key == "second-key"


def test_a_secret_file_that_did_not_change_is_not_read_again(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    path = write("secret", "first-key")
    monkeypatch.setenv("SLNG_API_KEY_FILE", str(path))
    secrets = load_settings()[1]

    def refuse(*_: object, **__: object) -> str:
        raise AssertionError("it was read")

    monkeypatch.setattr(Path, "read_text", refuse)

    assert secrets.api_key == "first-key"


def test_secrets_without_files_come_from_the_settings() -> None:
    secrets = secrets_of(loaded(slng_api_key=KEY))

    assert secrets.api_key == KEY
    assert repr(secrets) == "Secrets(slng_api_key)"


@pytest.mark.parametrize(
    "text",
    [
        'sidecar_model_aliases = "tts-1=slng/a/b:1, whisper-1 = slng/c/d"',
        'SIDECAR_MODEL_ALIASES = { "tts-1" = "slng/a/b:1", "whisper-1" = "slng/c/d" }',
        '[sidecar_model_aliases]\ntts-1 = "slng/a/b:1"\nwhisper-1 = "slng/c/d"\n',
    ],
)
def test_aliases_are_a_table_or_a_list_of_names(text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    settings, _ = load_settings(path)
    assert settings.sidecar_model_aliases == {"tts-1": "slng/a/b:1", "whisper-1": "slng/c/d"}
