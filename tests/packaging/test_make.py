"""What the Makefile does where something cannot be installed."""

from __future__ import annotations

import os
import subprocess

import pytest
from support.paths import ROOT

MISSING = "--no-index no-such-package"


@pytest.mark.skipif(not (ROOT / ".venv/.made").exists(), reason="this environment was not made by make")
def test_without_packages_of_the_best_engines_make_goes_on_and_says_so() -> None:
    # pip finds no package in an empty index, and the second fallback is installed already. The stamp is passed as old.
    done = subprocess.run(
        ["make", "-o", ".venv/.made", "speech", f"NEURAL={MISSING}", f"FALLBACKS='{MISSING}' '--no-index pip'"],
        # Without the variables of a make that runs this test.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    _, line = done.stdout.splitlines()
    assert line.startswith("The best ones could not be installed, so the simulator uses flite or eSpeak NG, and Poc")
    assert "glibc 2.34" in line
    log = (ROOT / ".venv/.made-speech.log").read_text()
    assert log.count("No matching distribution") == 2
    assert "already satisfied: pip" in log
