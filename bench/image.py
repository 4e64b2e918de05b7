"""Measure the images: their sizes by extras, and how long a container takes until it serves requests.

``python -m bench.image`` builds the images and removes them afterwards. It needs a Docker engine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_EXTRAS = ("codecs,otel", "otel", "simulator-neural", "simulator")
_RUNS = 5
_START_TIMEOUT = 30.0
_DOCKER_TIMEOUT = 900.0
# Requests to the container must not use a proxy of the environment.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _docker(*arguments: str) -> str:
    try:
        done = subprocess.run(("docker", *arguments), capture_output=True, text=True, timeout=_DOCKER_TIMEOUT)
    except FileNotFoundError:
        sys.exit("The command docker was not found. Install Docker to measure the image.")
    if done.returncode:
        sys.exit(f"docker {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _answers(url: str) -> bool:
    try:
        with _OPENER.open(url, timeout=1):
            return True
    except OSError:
        return False


def _start(image: str) -> float:
    """Return the seconds from ``docker run`` until ``/healthz`` answers."""
    start = time.monotonic()
    # The key is not real. It is never used, because the sidecar opens no connection without a session.
    settings = ("--env", "SLNG_API_KEY=none", "--env", "SIDECAR_TOKEN=none")
    container = _docker("run", "--detach", "--read-only", *settings, "--publish", "127.0.0.1::8765", image)
    try:
        url = f"http://{_docker('port', container, '8765/tcp')}/healthz"
        while not _answers(url):
            if time.monotonic() > start + _START_TIMEOUT:
                log = _docker("logs", container)
                sys.exit(f"The container answered no request within {_START_TIMEOUT:.0f} s. Its log: {log}")
            time.sleep(0.01)
        return time.monotonic() - start
    finally:
        _docker("rm", "--force", container)


def main() -> None:
    """Build and measure each image, and print the results."""
    print("Seconds from docker run to the first answered request: median (smallest-largest)\n")
    for extras in _EXTRAS:
        image = f"slng-sidecar-measured:{extras.replace(',', '-')}"
        _docker("build", "--quiet", "--build-arg", f"EXTRAS={extras}", "--tag", image, str(_ROOT))
        try:
            size = int(_docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
            seconds = [_start(image) for _ in range(_RUNS)]
        finally:
            _docker("image", "rm", image)
        took = f"{statistics.median(seconds):.1f} s ({min(seconds):.1f}-{max(seconds):.1f})"
        print(f"{extras:16} {size:.0f} MB, {took}")


if __name__ == "__main__":
    main()
