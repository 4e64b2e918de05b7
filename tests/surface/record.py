"""Record the current surface as the one that the tests compare with: all subjects, or those that are named.

Run it from the root of the repository: `PYTHONPATH=tests .venv/bin/python -m surface.record [subject ...]`.
"""

from __future__ import annotations

import asyncio
import os
import sys

from surface.collect import SUBJECTS
from surface.compare import record, recorded
from surface.wire import wire


def main(names: list[str]) -> None:
    """Record the subjects in `names`, or all of them if there is none."""
    known = [*SUBJECTS, "wire"]
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"No such subject: {', '.join(unknown)}. The subjects are {', '.join(known)}.")
    # Settings of the machine must not show in the record.
    for name in tuple(os.environ):
        if name.startswith(("SLNG_", "SIDECAR_")):
            del os.environ[name]
    for name in names or known:
        record(name, asyncio.run(wire()) if name == "wire" else SUBJECTS[name](recorded(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
