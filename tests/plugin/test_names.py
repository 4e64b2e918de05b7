"""The plugin uses only those private names of Pipecat that are made for subclasses."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pipecat_slng_sidecar
import pytest
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

# Pipecat's own services override or read these names, and its guide for integrations lists them.
FOR_SUBCLASSES = {"_call_event_handler", "_register_event_handler", "_settings", "_update_settings", "_user_id"}
MODULES = sorted(Path(pipecat_slng_sidecar.__file__).parent.glob("*.py"))
BASES = {base for service in (STTService, TTSService) for base in service.__mro__ if base.__module__ != "builtins"}
PIPECAT = "\n".join(Path(inspect.getfile(base)).read_text() for base in BASES if "pipecat" in base.__module__)


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_the_modules_and_the_source_of_pipecat_are_found() -> None:
    assert len(MODULES) > 8
    assert "_turn_context_id" in PIPECAT


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_private_module_or_name_is_imported(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert not [part for part in parts if private(part)], ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_private_attribute_or_method_of_pipecat_is_touched(path: Path) -> None:
    tree = ast.parse(path.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    touched = {name for name in used if private(name) and re.search(rf"(self\.|def ){name}\b", PIPECAT)}
    assert touched <= FOR_SUBCLASSES
