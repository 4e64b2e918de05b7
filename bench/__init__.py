"""Benchmark of the sidecar and the official ``pipecat-slng`` on the simulator. Run it with ``python -m bench``."""

import os

# When Pipecat is imported, it logs its version to standard error through loguru.
os.environ.setdefault("LOGURU_LEVEL", "ERROR")
