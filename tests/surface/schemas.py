"""Reduce OpenAPI, AsyncAPI and JSON Schema to what a program depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# For people, or of no consequence on the wire.
_NOTES = frozenset(
    {
        "$defs",
        "bindingVersion",
        "description",
        "example",
        "examples",
        "externalDocs",
        "operationId",
        "summary",
        "tags",
        "title",
        "version",
    }
)
# Their keys are names that somebody chose, so none of them is a keyword.
_NAMED = frozenset({"callbacks", "content", "headers", "paths", "patternProperties", "properties", "responses"})


def bare(node: Any, document: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> Any:
    """Return a node without texts for people, with its references and its `allOf` put in place.

    References go, because the names of shared schemas are those of private classes. The result has no order that
    means nothing: `required` and alternatives are sorted, and a list of parameters is an object by their names.
    """
    if isinstance(node, list):
        return [bare(each, document, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    definitions = node.get("$defs", definitions)
    if "$ref" in node:
        return bare(_resolved(node["$ref"], document, definitions or {}), document, definitions)
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key in _NOTES:
            continue
        if key in _NAMED and isinstance(value, dict):
            made[key] = {name: bare(each, document, definitions) for name, each in value.items()}
        elif key == "parameters" and isinstance(value, list):
            parameters = [bare(each, document, definitions) for each in value]
            made[key] = {f"{each.pop('in')} {each.pop('name')}": each for each in parameters}
        elif key in ("const", "default", "enum"):
            made[key] = _sorted(value) if key == "enum" else value
        else:
            made[key] = bare(value, document, definitions)
            if key in ("anyOf", "oneOf", "required", "type") and isinstance(made[key], list):
                made[key] = _sorted(made[key])
    for part in made.pop("allOf", []):
        made = _merged(part, made)
    return made


def _resolved(reference: str, document: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    head, _, path = reference.partition("/")
    assert head == "#", f"not within its document: {reference}"
    # FastAPI uses a schema that was written by hand unchanged, and its `$defs` are then in that schema.
    found: Any = {"$defs": definitions} if path.startswith("$defs/") else document
    for step in path.split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    made = {**one, **other}
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            made[key] = _merged(one[key], other[key])
        elif key == "required":
            made[key] = _sorted([*one[key], *(name for name in other[key] if name not in one[key])])
    return made


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values, key=lambda value: json.dumps(value, sort_keys=True))
