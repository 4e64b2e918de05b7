"""What the Makefile does where something cannot be installed."""

from __future__ import annotations

import os
import subprocess

import pytest
from support.paths import ROOT


@pytest.mark.skipif(not (ROOT / ".venv/.made").exists(), reason="this environment was not made by make")
def test_without_packages_of_the_neural_engines_make_goes_on_and_says_so() -> None:
    # pip finds no package in an empty index. The stamp is passed as old, so nothing else is installed.
    done = subprocess.run(
        ["make", "-o", ".venv/.made", "neural", "NEURAL=--no-index no-such-package"],
        # Without the variables of a make that runs this test.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    _, line = done.stdout.splitlines()
    assert line.startswith("They could not be installed, so the simulator uses flite or eSpeak NG, and PocketSphinx.")
    assert "glibc 2.34" in line
