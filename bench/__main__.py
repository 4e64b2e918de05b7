"""Measure everything once and print the tables."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

from bench.bots import redirect_official
from bench.measures import hop, http, interruption, load, pipeline, standby, stt_drop, stt_update, text_up, tts_update
from bench.report import Part, table
from bench.world import World, running_world

MEASURES: dict[str, Callable[[World], Awaitable[list[Part]]]] = {
    "stt_update": stt_update.measure,
    "tts_update": tts_update.measure,
    "text_up": text_up.measure,
    "interruption": interruption.measure,
    "stt_drop": stt_drop.measure,
    "pipeline": pipeline.measure,
    "standby": standby.measure,
    "http": http.measure,
    "hop": hop.measure,
    "load": load.measure,
}
_RUNS, _QUICK_RUNS = 5, 2
_TIMEOUT_SECONDS = 300.0
_PACKAGES = ("slng-sidecar", "pipecat-slng", "pipecat-ai", "websockets", "uvicorn")


async def _measure(names: list[str], *, quick: bool) -> list[Part]:
    parts = []
    async with running_world(runs=_QUICK_RUNS if quick else _RUNS, quick=quick) as world:
        redirect_official(world.observed)
        for name in names:
            start = time.monotonic()
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                measured = await MEASURES[name](world)
            for part in measured:
                print(table(part), flush=True)
            print(f"[{name}: {time.monotonic() - start:.0f} s]", file=sys.stderr, flush=True)
            parts += measured
    return parts


async def _until_terminated(names: list[str], *, quick: bool) -> list[Part]:
    """Measure until done or until SIGTERM. SIGTERM cancels like Ctrl-C, so that no process is left behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await _measure(names, quick=quick)


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=MEASURES, help="measure only this; can be repeated")
    parser.add_argument("--quick", action="store_true", help="make fewer and shorter runs; do not quote their results")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single value to this file")
    arguments = parser.parse_args()
    versions = {name: version(name) for name in _PACKAGES}
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print("Medians; in brackets the smallest and the largest.\n")
    try:
        parts = asyncio.run(_until_terminated(arguments.only or list(MEASURES), quick=arguments.quick))
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit("Interrupted.")
    if arguments.json:
        rows = [
            {"title": part.title, "other": part.other, "rows": [row.as_dict() for row in part.rows]} for part in parts
        ]
        arguments.json.write_text(json.dumps({"versions": versions, "quick": arguments.quick, "parts": rows}, indent=1))


if __name__ == "__main__":
    main()
