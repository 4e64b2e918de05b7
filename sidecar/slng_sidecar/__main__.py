"""``python -m slng_sidecar`` is the command ``slng-sidecar``."""

from slng_sidecar.cli import main

main()
