"""The secrets that the sidecar holds: keys and its own token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from slng_sidecar.protocol.route import Kind

SECRETS = ("slng_api_key", "slng_provider_key", "slng_stt_provider_key", "slng_tts_provider_key", "sidecar_token")
"""The settings that are secrets. None is ever shown, and each can also be given as ``<NAME>_FILE``."""


class ConfigError(Exception):
    """Raised when a setting cannot be used. The text names the setting, the reason and the remedy."""


class Secrets:
    """The present secrets. Those in files are read again when the file changes.

    Mutable: ``_cache``, the content of each file with its stamp (time, size, inode).
    """

    def __init__(self, values: Mapping[str, SecretStr | None], files: Mapping[str, Path] | None = None) -> None:
        """Read the secrets.

        Args:
            values: the secrets by their names in ``SECRETS``.
            files: the files of those that are in files, which take precedence.

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
        """The token that local clients must send; None if they need none."""
        return self._get("sidecar_token")

    def provider_key(self, kind: Kind) -> str | None:
        """Return the operator's provider key for STT or TTS. The more specific setting takes precedence."""
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
                        f"{setting} takes the path of a file, and its value does not look like one (the value is not "
                        f"shown, as it may be a secret). The secret itself goes into {name.upper()}."
                    ) from None
                raise ConfigError(f"{setting}={path} cannot be used: {detail}.") from None
            # A file may be missing for a moment while it is replaced. Its last content stays valid.
        return known[1]


def secret_files(env_file: Path | None) -> dict[str, Path]:
    """Return the files of secrets (``SLNG_API_KEY_FILE`` and so on) from the environment, or else an env file."""
    values: dict[str, str | None] = dict(dotenv_values(env_file)) if env_file else {}
    values.update(os.environ)
    return {name: Path(path) for name in SECRETS if (path := values.get(f"{name.upper()}_FILE"))}


def _is_path(path: Path) -> bool:
    """Return whether a value looks like a path rather than a misplaced secret, which may contain slashes too."""
    text = str(path)
    return text.startswith(("/", ".", "~")) or os.path.exists(path) or ("/" in text and os.path.exists(path.parent))


def clean_secret(value: str) -> str:
    """Return a secret without surrounding space.

    Raises:
        ValueError: the value cannot be a secret.
    """
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("a key must be ASCII characters without spaces or line breaks")
    return value
