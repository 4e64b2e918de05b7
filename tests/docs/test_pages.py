"""The pages are complete: what they name exists, their links lead somewhere, and every page can be reached."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from faults.cases import CASES, elsewhere
from faults.requests import FAULTS
from faults.test_matrix import TITLE
from support.metric_names import metric_names
from support.paths import ROOT

MAP = Path("docs/README.md")
DOCS = sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/**/*.md"))
PAGES = [*DOCS, *sorted(path.relative_to(ROOT) for path in ROOT.glob("*.md")), Path("plugin/README.md")]
SOURCES = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
# Settings of clients, and variables that the repository's own commands read.
NOT_OF_THE_SIDECAR = {"SLNG_SIDECAR_URL", "SLNG_SIDECAR_TOKEN"}

every_page = pytest.mark.parametrize("page", PAGES, ids=str)
every_docs_page = pytest.mark.parametrize("page", DOCS, ids=str)


@cache
def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """Return a page without its code blocks, in which ``#`` begins a comment and not a heading."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def links_of(page: Path) -> list[tuple[str, str]]:
    """Return the relative links of a page: the file, empty for the page itself, and the anchor."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    return [target.partition("#")[::2] for target in targets if not re.match(r"[a-z]+:", target)]


def target_of(page: Path, name: str) -> Path:
    return (ROOT / page.parent / name).resolve() if name else ROOT / page


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
        anchors.add(f"{anchor}-{found[anchor]}" if found[anchor] else anchor)
    return anchors


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for name, anchor in links_of(page):
        target = target_of(page, name)
        assert target.exists(), name
        if anchor:
            assert anchor in anchors_of(target.relative_to(ROOT)), f"{name}#{anchor}"


@every_page
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    for name in re.findall(r"`((?:tests|deploy|bench|docs|plugin)/[\w/.-]+)`", text_of(page)):
        assert (ROOT / name).exists(), name


def test_every_module_that_the_trust_page_names_exists() -> None:
    modules = re.findall(r"`((?:\w+/)+\w+\.py)`", text_of(Path("docs/explain/trust.md")))
    mine = [name for name in modules if not name.startswith("tests/")]
    assert mine
    assert not [name for name in mine if not (ROOT / "sidecar/slng_sidecar" / name).exists()]


@every_docs_page
def test_a_page_begins_with_its_title_and_has_no_other(page: Path) -> None:
    assert text_of(page).startswith("# ")
    assert len(re.findall(r"^# ", prose_of(page), re.MULTILINE)) == 1


@every_docs_page
def test_a_page_names_its_readers_in_its_first_sentence(page: Path) -> None:
    assert re.search(r"\bfor [^.]+:|\bfor [^.]+\.", text_of(page).split("\n\n")[1], re.IGNORECASE), page


def test_every_page_can_be_reached_from_the_map_and_is_on_it() -> None:
    seen, waiting = set(), [MAP]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for name, _ in links_of(page):
            target = target_of(page, name).relative_to(ROOT)
            if target.suffix == ".md" and target.parts[0] == "docs":
                waiting.append(target)
    assert set(DOCS) == seen
    listed = {target_of(MAP, name).relative_to(ROOT) for name, _ in links_of(MAP)}
    unlisted = [page for page in DOCS if page != MAP and page not in listed and page.parts[1] != "troubleshoot"]
    assert not unlisted
    assert MAP in {target_of(Path("README.md"), name).relative_to(ROOT) for name, _ in links_of(Path("README.md"))}


def test_every_symptom_is_on_the_troubleshooting_page() -> None:
    page = Path("docs/troubleshoot/README.md")
    listed = {target_of(page, name).relative_to(ROOT) for name, _ in links_of(page)}
    assert {each for each in DOCS if each.parent == page.parent and each != page} <= listed


@every_page
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+|Test\w+)`", text_of(page)))
    assert not [name for name in named if f"def {name}(" not in SOURCES and f"{name} = " not in SOURCES]


def test_the_evidence_names_tests() -> None:
    assert len(re.findall(r"`test_\w+`", text_of(Path("docs/evidence/tests.md")))) > 50


@every_page
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    from slng_sidecar.config import Settings

    known = {name.upper() for name in Settings.model_fields} | NOT_OF_THE_SIDECAR
    for name in re.findall(r"\b((?:SIDECAR|SLNG)_[A-Z_]+[A-Z])\b", text_of(page)):
        assert name.removesuffix("_FILE") in known, name


@every_page
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    families = {re.sub("_bucket$", "", name) for name in metric_names()}
    for name in re.findall(r"\bslng_sidecar_\w+", prose_of(page)):
        if page.name != "CHANGELOG.md":
            assert name in metric_names() | families, name


@every_page
def test_every_error_code_that_a_table_explains_exists(page: Path) -> None:
    from slng_sidecar.protocol.errors import STATUS_OF_CODE

    for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text_of(page), re.MULTILINE):
        assert STATUS_OF_CODE[code] == int(status), code


def test_the_events_of_the_log_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "sidecar/slng_sidecar").rglob("*.py"))
    table = text_of(Path("docs/how-to/monitor.md")).partition("| `event` | Meaning |")[2].partition("\n\n")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert set(re.findall(r'"event": "(\w+)"', code)) <= listed
    assert not [name for name in listed if f'"{name}"' not in code]


@every_page
def test_no_page_points_to_a_document_that_is_not_published(page: Path) -> None:
    assert not re.search(r"(local|first) contract|section \d+ of", text_of(page))


def test_the_fault_matrix_page_lists_the_faults_that_exist() -> None:
    # `make matrix-docs` writes the page. It takes minutes, so this only notices that it was forgotten.
    page = text_of(Path("docs/evidence/fault-matrix.md"))
    assert page.startswith(TITLE)
    missing = [case.name for case in CASES if f"| {case.number} | {case.name} |" not in page]
    missing += [fault for fault in FAULTS if f"| {fault} |" not in page]
    missing += [line for line in elsewhere() if line not in page]
    assert not missing


def test_the_python_on_the_simulator_page_works() -> None:
    [block] = re.findall(
        r"```python\n(from slng_sidecar.engines.*?)```", text_of(Path("docs/reference/simulator.md")), re.S
    )
    names: dict[str, object] = {}
    for line in block.splitlines():
        code, _, result = line.partition("  # [")
        if result:
            assert eval(code, names) == eval(f"[{result}"), code
        else:
            exec(code, names)
    assert len(names["words"]) >= 3  # type: ignore[arg-type] # a list of words
