"""The secrets that the sidecar holds, and where they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from slng_sidecar.protocol.route import Kind

SECRETS = ("slng_api_key", "slng_provider_key", "slng_stt_provider_key", "slng_tts_provider_key", "sidecar_token")
"""The settings that are secrets: shown nowhere, and each also taken from ``<NAME>_FILE``."""


class ConfigError(Exception):
    """Raised when the settings cannot be used; its text says which one, why, and what to do."""


class Secrets:
    """The secrets as they are now: from their files where they have one, re-read when the file changes.

    Only ``_cache`` is mutable: for each file what it held, and by which stamp (time, size, inode) that is known.
    """

    def __init__(self, values: Mapping[str, SecretStr | None], files: Mapping[str, Path] | None = None) -> None:
        """Take the secrets as they are set.

        Args:
            values: by their names in ``SECRETS``.
            files: those that are in files, which win.

        Raises:
            ConfigError: a file cannot be used.
        """
        self._values = dict(values)
        self._files = dict(files or {})
        self._cache: dict[str, tuple[tuple[int, int, int], str]] = {}
        for name in self._files:
            self._read(name)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(name for name in SECRETS if self._get(name))})"

    @property
    def api_key(self) -> str | None:
        """SLNG's key."""
        return self._get("slng_api_key")

    @property
    def token(self) -> str | None:
        """What local clients must show."""
        return self._get("sidecar_token")

    def provider_key(self, kind: Kind) -> str | None:
        """Give the operator's provider key for STT or TTS; the narrower setting wins."""
        return self._get(f"slng_{kind}_provider_key") or self._get("slng_provider_key")

    def _get(self, name: str) -> str | None:
        if name in self._files:
            return self._read(name)
        value = self._values.get(name)
        return value.get_secret_value() if value is not None else None

    def _read(self, name: str) -> str:
        path = self._files[name]
        known = self._cache.get(name)
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if known is None or known[0] != stamp:
                known = self._cache[name] = (stamp, clean_secret(path.read_text()))
        except (OSError, ValueError) as error:
            if known is None:
                detail = error.strerror if isinstance(error, OSError) else error
                setting = f"{name.upper()}_FILE"
                if not _is_path(path):
                    raise ConfigError(
                        f"{setting} takes the path of a file, and what is set there does not look like one (it is not "
                        f"shown, as it may be a secret). The secret itself goes into {name.upper()}."
                    ) from None
                raise ConfigError(f"{setting}={path} cannot be used: {detail}.") from None
            # A file that is being replaced may be missing for a moment: what it held still holds.
        return known[1]


def secret_files(env_file: Path | None) -> dict[str, Path]:
    """Give which secrets the environment, or an env file below it, has in files: ``SLNG_API_KEY_FILE`` and such."""
    values: dict[str, str | None] = dict(dotenv_values(env_file)) if env_file else {}
    values.update(os.environ)
    return {name: Path(path) for name in SECRETS if (path := values.get(f"{name.upper()}_FILE"))}


def _is_path(path: Path) -> bool:
    """Tell whether this looks like a path, and not like a secret in its place, which may have slashes as well."""
    text = str(path)
    return text.startswith(("/", ".", "~")) or os.path.exists(path) or ("/" in text and os.path.exists(path.parent))


def clean_secret(value: str) -> str:
    """Give a secret without the space around it.

    Raises:
        ValueError: it cannot be one.
    """
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("a key is one word of ASCII characters, without spaces or line breaks")
    return value
