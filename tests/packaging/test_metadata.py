"""The metadata of both packages and the README files that a package page shows."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pipecat_slng_sidecar
import pytest
import slng_sidecar

ROOT = Path(__file__).parents[2]
PACKAGES = {"sidecar": "slng_sidecar", "plugin": "pipecat_slng_sidecar"}
OURS = {*PACKAGES.values()}

both_packages = pytest.mark.parametrize("folder", PACKAGES)


def project(folder: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return table


def imported_modules(source: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@cache
def distributions_of_packages() -> dict[str, list[str]]:
    return {name: sorted(set(owners)) for name, owners in importlib.metadata.packages_distributions().items()}


def distribution_of(module: str) -> str:
    """Return the normalized name of the installed distribution that a module belongs to."""
    owners = distributions_of_packages()[module.partition(".")[0]]
    if len(owners) > 1:  # a namespace such as `opentelemetry`, which several distributions share
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        owners = [
            owner
            for owner in owners
            if any(str(file.locate()) == spec.origin for file in importlib.metadata.files(owner) or ())
        ]
    [owner] = owners
    return normalized(owner)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared_distributions(folder: str) -> set[str]:
    table = project(folder)
    requirements = [
        *table["dependencies"],
        *(line for extra in table["optional-dependencies"].values() for line in extra),
    ]
    return {normalized(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements}


@both_packages
def test_every_imported_distribution_is_declared(folder: str) -> None:
    modules = {
        module for source in (ROOT / folder / PACKAGES[folder]).rglob("*.py") for module in imported_modules(source)
    }
    foreign = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names | OURS}
    assert foreign
    undeclared = {name for name in foreign if distribution_of(name) not in declared_distributions(folder)}
    assert not undeclared


@both_packages
def test_the_readme_has_no_relative_links(folder: str) -> None:
    # A package page has no neighbouring files, so only absolute links and links within the page work there.
    text = (ROOT / folder / project(folder)["readme"]).read_text()
    targets = re.findall(r"\]\(([^)\s]+)|^\[[^\]]+\]:\s*(\S+)|(?:href|src)=\"([^\"]+)", text, re.MULTILINE)
    relative = [target for target in map("".join, targets) if not re.match(r"https?://|mailto:|#", target)]
    assert not relative


@both_packages
def test_every_link_within_the_readme_has_a_heading(folder: str) -> None:
    text = (ROOT / folder / project(folder)["readme"]).read_text()
    headings = {
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)\s]+)\)", text)) <= headings


@both_packages
def test_the_metadata_names_authors_keywords_classifiers_and_addresses(folder: str) -> None:
    table = project(folder)
    for field in ("description", "authors", "keywords", "classifiers", "urls", "license-files"):
        assert table[field], field


def test_both_packages_give_the_same_addresses() -> None:
    assert project("sidecar")["urls"] == project("plugin")["urls"]


def test_both_packages_have_the_same_version() -> None:
    assert slng_sidecar.__version__ == pipecat_slng_sidecar.__version__
