"""Compare a recorded surface with the current one, and keep the record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

RECORDED = Path(__file__).parent / "recorded"
HOW_TO_RECORD = "PYTHONPATH=tests .venv/bin/python -m surface.record"
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. `path` leads to it; the last step of an item in a list is the item itself."""

    what: Literal["removed", "added", "changed"]
    path: tuple[str, ...]
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        shown = {
            "removed": f"= {_shown(self.old)}",
            "added": f"= {_shown(self.new)}",
            "changed": f": {_shown(self.old)} -> {_shown(self.new)}",
        }[self.what]
        return f"{self.what}: {' > '.join(self.path)} {shown}"


def differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """Yield what differs between two JSON values. Lists are compared as sets, so their order does not matter."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                yield Difference("removed", (*path, name), old=old[name])
            elif name not in old:
                yield Difference("added", (*path, name), new=new[name])
            else:
                yield from differences(old[name], new[name], (*path, name))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _of_lists(old, new, path)
    elif type(old) is not type(new) or old != new:
        yield Difference("changed", path, old, new)


def _of_lists(old: list[Any], new: list[Any], path: tuple[str, ...]) -> Iterator[Difference]:
    # As text, since 1 and True are equal in Python.
    had, has = ({_text(each) for each in values} for values in (old, new))
    gone = [each for each in old if _text(each) not in has]
    come = [each for each in new if _text(each) not in had]
    # Alternatives of a schema have no name, so those that differ are paired in their order.
    while gone and come and isinstance(gone[0], dict) and isinstance(come[0], dict):
        before, after = gone.pop(0), come.pop(0)
        yield from differences(before, after, (*path, f"[{old.index(before)}]"))
    yield from (Difference("removed", (*path, _shown(each)), old=each) for each in gone)
    yield from (Difference("added", (*path, _shown(each)), new=each) for each in come)


def narrows_what_clients_send(difference: Difference) -> bool:
    """Return whether an addition to AsyncAPI makes a message invalid that a client may send today."""
    return any(" receive " in f" {step} " for step in difference.path) and "required" in difference.path


def explain(subject: str, found: Sequence[Difference]) -> str:
    """Return the message of a failed comparison: every difference, and how to record a change on purpose."""
    return "\n".join(
        (
            f"The surface '{subject}' is not the one recorded in tests/surface/recorded/{subject}.json:",
            *(f"  {each}" for each in found),
            f"If this change is intended, record it and review the diff: {HOW_TO_RECORD} {subject}",
        )
    )


def recorded(subject: str) -> Any:
    """Return what is recorded of a subject, or an empty object if nothing is."""
    path = RECORDED / f"{subject}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def record(subject: str, surface: Any) -> None:
    """Write a subject's surface in a form that a person can review."""
    RECORDED.mkdir(exist_ok=True)
    text = json.dumps(surface, indent=1, sort_keys=True, ensure_ascii=False)
    (RECORDED / f"{subject}.json").write_text(text + "\n", "utf-8")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else _text(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
