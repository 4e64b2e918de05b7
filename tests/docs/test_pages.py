"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faults.cases import CASES, elsewhere
from faults.requests import FAULTS
from support.paths import ROOT

SOURCES = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))


PAGES = sorted(path.relative_to(ROOT) for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")))


@pytest.mark.parametrize("page", ["docs/guarantees.md", "docs/trust.md", "docs/fault-matrix.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`(test_\w+|Test\w+)`", (ROOT / page).read_text()))
    assert named
    missing = [name for name in named if f"def {name}(" not in SOURCES and f"{name} = " not in SOURCES]
    assert not missing


def test_the_fault_matrix_on_the_page_is_of_the_faults_that_there_are() -> None:
    # `make matrix-docs` writes the page; it takes minutes, so here is only seen that it was not forgotten.
    page = (ROOT / "docs/fault-matrix.md").read_text()
    missing = [case.name for case in CASES if f"| {case.number} | {case.name} |" not in page]
    missing += [fault for fault in FAULTS if f"| {fault} |" not in page]
    missing += [line for line in elsewhere() if line not in page]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    text = (ROOT / page).read_text()
    for name in re.findall(r"`((?:tests|deploy)/[\w/.-]+\.(?:py|yaml|json))`", text):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page.parent / target).exists(), target


def test_every_setting_that_a_page_names_exists() -> None:
    from slng_sidecar.config import Settings

    known = {name.upper() for name in Settings.model_fields} | {"SLNG_SIDECAR_URL", "SLNG_SIDECAR_TOKEN"}
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for name in re.findall(r"\b((?:SIDECAR|SLNG)_[A-Z_]+[A-Z])\b", page.read_text()):
            assert name.removesuffix("_FILE") in known, (page.name, name)
