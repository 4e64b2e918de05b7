"""Scripted faults: what goes wrong, where, at which moment and how often. Connections carry them out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, get_args

from slng_sidecar.simulator.profiles import BadProfile, ErrorShape, check_profile
from slng_sidecar.simulator.proxy import ENDINGS

KINDS = ("stt", "tts", "http")
"""Where a fault applies: the two bridges, and HTTP requests of either."""

MOMENTS = (
    "upgrade", "accepted", "init", "ready", "text", "flush", "clear", "cancel", "finalize", "keepalive", "close",
    "audio", "partial", "final", "terminal", "cleared", "request", "now",
)  # fmt: skip
"""When a fault applies.

``upgrade`` is before the 101, ``accepted`` right after it, ``request`` is an HTTP request. ``init``, ``text``,
``flush``, ``clear``, ``cancel``, ``finalize``, ``keepalive`` and ``close`` are the client's messages, before they are
handled. ``ready`` is just after that message was sent; ``partial``, ``final``, ``terminal`` and ``cleared`` are just
before. ``audio`` is audio received on STT, and audio sent in the turn on TTS; with ``after_ms``, once that much of it
has passed. ``now`` acts on the connections that are open, newest first.
"""

_Check = Callable[[Any], bool]
_FIELDS: dict[str, tuple[_Check, str]] = {
    "kind": (lambda v: v in KINDS, "one of " + ", ".join(KINDS)),
    "model": (lambda v: isinstance(v, str) and v != "", "a model, or a pattern such as slng/deepgram/*"),
    "connection": (lambda v: _whole(v) and v > 0, "1 for the first matching connection from now on, 2 for the second"),
    "times": (lambda v: _whole(v), "how often it acts in all; 0 is always"),
    "when": (lambda v: v in MOMENTS, "one of " + ", ".join(MOMENTS)),
    "occurrence": (lambda v: _whole(v) and v > 0, "1 for the first such moment of a connection, 2 for the second"),
    "after_ms": (lambda v: _whole(v), "milliseconds of audio, with when: audio"),
    "delay_ms": (lambda v: _whole(v), "milliseconds from the moment until it acts"),
}
_TEXT: tuple[_Check, str] = (lambda v: isinstance(v, str), "a text")
_ACTIONS: dict[str, dict[str, tuple[_Check, str]]] = {
    "refuse": {
        "status": (lambda v: _whole(v) and 200 <= v <= 599, "an HTTP status of 200 to 599"),
        "body": (lambda v: isinstance(v, (str, Mapping)), "a text, or an object to be sent as JSON"),
        "content_type": _TEXT,
        "headers": (
            lambda v: isinstance(v, Mapping) and all(isinstance(x, str) and x.isascii() for x in (*v, *v.values())),
            "an object of texts",
        ),
    },
    "hang": {},
    "drop": {},
    "close": {
        "code": (
            lambda v: _whole(v) and (v in (1000, 1001, 1002, 1003) or 1007 <= v <= 1014 or 3000 <= v <= 4999),
            "a close code that may be sent",
        ),
        "reason": (lambda v: isinstance(v, str) and len(v.encode()) <= 123, "a text of at most 123 bytes"),
    },
    "error": {
        "code": _TEXT,
        "message": _TEXT,
        "status": (lambda v: _whole(v) and 100 <= v <= 599, "an HTTP status"),
        "shape": (lambda v: v in get_args(ErrorShape), "one of " + ", ".join(get_args(ErrorShape))),
        "then_close": (lambda v: _whole(v) and 1000 <= v <= 4999, "a close code"),
    },
    "send": {
        "message": (lambda v: isinstance(v, (str, Mapping)), "an object to be sent as JSON, or a text as it is"),
        "base64": (lambda v: isinstance(v, str) and _is_base64(v), "a binary frame, in base64"),
    },
    "oversized": {
        "bytes": (lambda v: _whole(v) and 0 < v <= 64 << 20, "1 to 67108864"),
        "binary": (lambda v: isinstance(v, bool), "true or false"),
    },
    "mute": {},
    "stop_reading": {},
    "stall": {"ms": (lambda v: _whole(v) and v > 0, "milliseconds")},
    "profile": {"set": (lambda v: True, "an object of fields of the route profile")},
    "tcp": {
        "latency_ms": (lambda v: _whole(v), "milliseconds"),
        "bytes_per_s": (lambda v: _whole(v), "bytes a second; 0 is no limit"),
        "slice_bytes": (lambda v: _whole(v), "bytes; 0 is no limit"),
        "then": (lambda v: v in ENDINGS, "one of " + ", ".join(ENDINGS)),
    },
}
_ALIASES = {"manners": "profile"}
_BEFORE_THE_101 = frozenset({"refuse", "hang", "drop", "profile", "tcp"})
# These need no 'when': they act at the dial unless 'when' says otherwise.
_OF_A_REQUEST = frozenset({"refuse", "hang", "profile"})
_AT_A_REQUEST = _OF_A_REQUEST | {"drop"}


class BadFault(ValueError):
    """Raised for a fault that is not valid. The text names the field and the possible values."""


@dataclass(slots=True, eq=False)
class Fault:
    """One entry of the script.

    Attributes:
        id: its number, given when it is added.
        do: what happens.
        when: the moment at which it happens.
        arguments: the arguments of ``do``.
        kind: the kind of connection it applies to; None for any.
        model: the model it applies to, or a pattern; None for any.
        connection: which matching connection it applies to, counted from when the fault was added; None for any.
        times: how often it acts in all; 0 for always.
        occurrence: at which occurrence of the moment on a connection; None for any.
        after_ms: after how many milliseconds of audio.
        delay_ms: how many milliseconds after the moment.
        fired: the ids of the connections on which it acted, in order.
        seen: how many matching connections there were.
        chosen: the id of the connection that ``connection`` counts to, once it came.
    """

    id: int
    do: str
    when: str
    arguments: dict[str, Any]
    kind: str | None = None
    model: str | None = None
    connection: int | None = None
    times: int = 1
    occurrence: int | None = None
    after_ms: int = 0
    delay_ms: int = 0
    fired: list[int] = field(default_factory=list)
    seen: int = 0
    chosen: int | None = None

    @property
    def spent(self) -> bool:
        """Whether it has acted as often as it should."""
        return bool(self.times) and len(self.fired) >= self.times

    def concerns(self, kind: str, model: str) -> bool:
        """Return whether it applies to connections of a kind and a model."""
        return self.kind in (None, kind) and (self.model is None or fnmatchcase(model, self.model))

    def as_dict(self) -> dict[str, Any]:
        """Return the fault as it was written, with ``id`` and ``fired``."""
        where = {"kind": self.kind, "model": self.model, "connection": self.connection, "occurrence": self.occurrence}
        shown: dict[str, Any] = {"id": self.id, "do": self.do, "when": self.when}
        shown |= {name: value for name, value in where.items() if value is not None}
        shown |= {name: value for name in ("after_ms", "delay_ms") if (value := getattr(self, name))}
        return shown | {"times": self.times} | self.arguments | {"fired": list(self.fired)}


class FaultBook:
    """The faults of a script, by id."""

    def __init__(self, faults: Iterable[Mapping[str, Any]] = ()) -> None:
        self._faults: dict[int, Fault] = {}
        self._last = 0
        for entry in faults:
            self.add(entry)

    def __iter__(self) -> Iterator[Fault]:
        return iter(tuple(self._faults.values()))

    def add(self, entry: object) -> Fault:
        """Add a fault.

        Raises:
            BadFault: the fault is not valid.
        """
        fault = parse_fault(entry, self._last + 1)
        self._last = fault.id
        self._faults[fault.id] = fault
        return fault

    def remove(self, number: int) -> bool:
        """Remove a fault, and return whether there was one with that id."""
        return self._faults.pop(number, None) is not None

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def opened(self, connection: int, kind: str, model: str) -> None:
        """Count a new connection, for the faults that apply to the n-th one."""
        for fault in self._faults.values():
            if fault.concerns(kind, model):
                fault.seen += 1
                if fault.seen == fault.connection:
                    fault.chosen = connection

    def due(
        self,
        connection: int,
        kind: str,
        model: str,
        moment: str,
        *,
        occurrence: int = 1,
        passed_ms: float = 0,
        exclude: Collection[int] = (),
    ) -> list[Fault]:
        """Return the active faults, excluding the ids in ``exclude``, and count each one as triggered."""
        due = [
            fault
            for fault in self._faults.values()
            if fault.when == moment
            and fault.id not in exclude
            and not fault.spent
            and fault.concerns(kind, model)
            and (fault.connection is None or fault.chosen == connection)
            and fault.occurrence in (None, occurrence)
            and passed_ms >= fault.after_ms
        ]
        for fault in due:
            fault.fired.append(connection)
        return due


def actions() -> dict[str, tuple[str, ...]]:
    """Return the possible values of ``do``, each with its arguments."""
    return {name: tuple(arguments) for name, arguments in _ACTIONS.items()}


def parse_script(script: object) -> list[Mapping[str, Any]]:
    """Parse a script: one fault, a list of them, or ``{"faults": [...]}``.

    Raises:
        BadFault: a fault is not valid.
    """
    if isinstance(script, Mapping) and set(script) == {"faults"}:
        script = script["faults"]
    entries: list[Any] = script if isinstance(script, list) else [script]
    for number, entry in enumerate(entries, 1):
        parse_fault(entry, number)
    return entries


def parse_fault(entry: object, number: int) -> Fault:
    """Parse one fault.

    Args:
        number: the id that it gets.

    Raises:
        BadFault: the fault has an unknown name, field or value.
    """
    if not isinstance(entry, Mapping):
        raise BadFault('a fault is an object such as {"do": "drop", "when": "audio", "after_ms": 500}')
    rest = dict(entry)
    do = rest.pop("do", None)
    if isinstance(do, str):
        do = _ALIASES.get(do, do)
    if not isinstance(do, str) or do not in _ACTIONS:
        raise BadFault(f"there is no fault {do!r}; 'do' is one of {', '.join(_ACTIONS)}")
    known = _FIELDS | _ACTIONS[do]
    for name, value in rest.items():
        if name not in known:
            raise BadFault(f"the fault {do!r} has no field {name!r}; its fields are {', '.join(known)}")
        good, wanted = known[name]
        if not good(value):
            raise BadFault(f"{name!r} of the fault {do!r} takes {wanted}, not {value!r}")
    where = {name: rest.pop(name) for name in _FIELDS if name in rest}
    if do == "profile":
        rest["set"] = _profile(rest.get("set"))
    if do == "send" and len(rest) != 1:
        raise BadFault("the fault 'send' takes either 'message' or 'base64'")
    if do == "tcp" and not rest:
        raise BadFault(f"the fault 'tcp' takes one or more of {', '.join(_ACTIONS['tcp'])}")
    if do == "stall" and not rest:
        raise BadFault("the fault 'stall' needs 'ms'")
    if "when" not in where:
        if do not in _OF_A_REQUEST:
            raise BadFault(f"the fault {do!r} needs 'when'; it is one of {', '.join(MOMENTS)}")
        where["when"] = "request" if where.get("kind") == "http" else "upgrade"
    _check_moment(do, where)
    return Fault(number, do, arguments=rest, **where)


def _check_moment(do: str, where: Mapping[str, Any]) -> None:
    when = where["when"]
    if (when == "request") != (where.get("kind") == "http"):
        raise BadFault("when: request and kind: http belong together")
    if when == "upgrade" and do not in _BEFORE_THE_101:
        raise BadFault(f"{do!r} cannot happen at the upgrade; there: {', '.join(sorted(_BEFORE_THE_101))}")
    if when == "request" and do not in _AT_A_REQUEST:
        raise BadFault(f"{do!r} cannot happen to a request; there: {', '.join(sorted(_AT_A_REQUEST))}")
    if when not in ("upgrade", "request") and do in ("refuse", "hang"):
        raise BadFault(f"{do!r} happens only at the upgrade or to a request")
    if "after_ms" in where and when != "audio":
        raise BadFault("'after_ms' counts audio, so it goes with when: audio")


def _profile(fields: Any) -> dict[str, Any]:
    try:
        return check_profile(fields)
    except BadProfile as error:
        raise BadFault(str(error)) from None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _is_base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        return False
    return True
