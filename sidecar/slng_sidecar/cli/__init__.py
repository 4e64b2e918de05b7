"""The command ``slng-sidecar``."""

from slng_sidecar.cli.main import main

__all__ = ["main"]
