"""Measurements of the sidecar beside the official ``pipecat-slng``, both on the simulator; ``python -m bench``."""

import os

# Pipecat announces itself on standard error when it is imported, through loguru.
os.environ.setdefault("LOGURU_LEVEL", "ERROR")
