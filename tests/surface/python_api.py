"""Describe Python objects by what their callers depend on: names, parameters, defaults, types."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import typing
from collections.abc import Callable, Collection
from typing import Any

# The place of a name, such as the "pipecat.frames.frames." of "pipecat.frames.frames.Frame | None".
_PLACE = re.compile(r"\b((?:[A-Za-z_]\w*\.)+)([A-Za-z_]\w*)")
INTERNAL = "(internal)"
"""Stands for a class that its package does not export, so that its name may change."""


def shown_type(annotation: object, exported: Collection[str] = (), package: str = "") -> str:
    """Return an annotation as text without the modules that its classes are in."""
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

    def short(match: re.Match[str]) -> str:
        place, name = match.groups()
        hidden = package and place.startswith(f"{package}.") and name not in exported
        return INTERNAL if hidden else name

    return _PLACE.sub(short, text)


def signature(function: Callable[..., Any], exported: Collection[str] = (), package: str = "") -> dict[str, Any]:
    """Return the parameters of a function by their names, and what it returns. `self` is left out."""
    try:
        found = inspect.signature(function, eval_str=True)
    except NameError:  # an annotation that is imported for type checkers only
        found = inspect.signature(function)
    parameters: dict[str, Any] = {}
    for position, parameter in enumerate(found.parameters.values()):
        if parameter.name == "self":
            continue
        described: dict[str, Any] = {"kind": parameter.kind.description}
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            described["position"] = position
        if parameter.default is not parameter.empty:
            described["default"] = repr(parameter.default)
        if annotation := shown_type(parameter.annotation, exported, package):
            described["type"] = annotation
        parameters[parameter.name] = described
    made: dict[str, Any] = {"parameters": parameters}
    if returns := shown_type(found.return_annotation, exported, package):
        made["returns"] = returns
    if inspect.iscoroutinefunction(function):
        made["async"] = True
    return made


def fields_of(cls: type, exported: Collection[str] = (), package: str = "") -> dict[str, Any]:
    """Return the fields that a dataclass has from its own package, with their types and defaults."""
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    own = {name for each in _own_classes(cls, package) for name in inspect.get_annotations(each)}
    made: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name not in own:
            continue
        described = made[field.name] = {"type": shown_type(hints[field.name], exported, package)}
        if field.default is not dataclasses.MISSING:
            described["default"] = repr(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            described["default"] = f"new {field.default_factory()!r}"
    return made


def class_surface(cls: type, exported: Collection[str] = (), package: str = "") -> dict[str, Any]:
    """Return what a class offers: its constructor, and the public names that its package defines, inherited or not.

    Which class of the package defines a name does not matter. Of the classes that it inherits from, only the first
    one outside of the package shows.
    """
    if issubclass(cls, enum.Enum):
        made: dict[str, Any] = {"members": {each.name: each.value for each in cls}, "base": cls.__mro__[1].__name__}
    else:
        made = {"base": next(each.__name__ for each in cls.__mro__ if each not in _own_classes(cls, package))}
        if dataclasses.is_dataclass(cls):
            return made | {"fields": fields_of(cls, exported, package)}
        made["constructor"] = signature(cls.__init__, exported, package)
    for kind in ("methods", "properties", "attributes"):
        made[kind] = {}
    for each in _own_classes(cls, package):
        for name in vars(each):
            if name.startswith("_") or name in made.get("members", ()):
                continue
            found = inspect.getattr_static(cls, name)
            if isinstance(found, property):
                made["properties"][name] = ""
                if found.fget is not None:
                    made["properties"][name] = signature(found.fget, exported, package).get("returns", "")
            elif callable(getattr(cls, name)) and not inspect.isclass(getattr(cls, name)):
                made["methods"][name] = signature(getattr(cls, name), exported, package)
            else:
                value = getattr(cls, name)
                made["attributes"][name] = value.__name__ if inspect.isclass(value) else repr(value)
    return {name: value for name, value in made.items() if value != {}}


def _own_classes(cls: type, package: str) -> list[type]:
    return [each for each in cls.__mro__ if each.__module__ == package or each.__module__.startswith(f"{package}.")]
