"""The generated blocks of the reference pages are what ``make docs`` writes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from slng_sidecar.protocol.errors import STATUS_OF_CODE
from support.paths import ROOT

GENERATOR: dict[str, Any] = runpy.run_path(str(ROOT / "docs/generate.py"))
PAGES: list[tuple[Path, str, str]] = list(GENERATOR["pages"]())


def test_every_block_stands_on_one_page() -> None:
    named = [name for _, text, _ in PAGES for _, name, _ in GENERATOR["BLOCK"].findall(text)]
    assert sorted(named) == sorted(GENERATOR["BLOCKS"])


@pytest.mark.parametrize(("path", "text", "fresh"), PAGES, ids=[path.name for path, _, _ in PAGES])
def test_a_page_is_what_make_docs_writes(path: Path, text: str, fresh: str) -> None:
    assert text == fresh, f"{path.name} is out of date; run make docs"


def test_every_error_code_has_a_meaning() -> None:
    assert GENERATOR["ERROR_MEANINGS"].keys() == {str(code) for code in STATUS_OF_CODE}


def test_every_group_of_settings_begins_with_a_setting_that_exists() -> None:
    from slng_sidecar.config import Settings

    assert GENERATOR["SETTING_GROUPS"].keys() <= Settings.model_fields.keys()
