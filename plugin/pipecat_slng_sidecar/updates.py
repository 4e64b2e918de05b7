"""Settings that change while a service runs: what the sidecar is told, and what of it was refused."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from pipecat.services.settings import ServiceSettings
from pipecat.utils.types import is_given

from pipecat_slng_sidecar.stt_replay_queue import SessionInit


class Updates:
    """The updates of one service.

    ``_before`` holds, for each update without an answer, what its fields were before it.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._before: dict[str, dict[str, Any]] = {}

    def message(self, changed: dict[str, Any], after: SessionInit) -> dict[str, Any]:
        """Give the ``update`` that says what changed.

        Args:
            changed: the fields that changed, with what they were.
            after: the settings that now hold.
        """
        update_id = f"u{next(self._ids)}"
        self._before[update_id] = changed
        message: dict[str, Any] = {"type": "update", "id": update_id}
        for name in changed:
            if name == "model":
                message["model"] = after.model
            elif name == "voice":
                message["voice"] = after.init.get("voice")
            else:
                message.setdefault("config", {})[name] = after.init["config"].get(name)
        return message

    def answered(self, answer: dict[str, Any], settings: ServiceSettings) -> str | None:
        """Put back into the settings what the sidecar's ``updated`` says was refused; give why, if anything was."""
        before = self._before.pop(str(answer.get("id")), {})
        rejected = answer.get("rejected") or {}
        for name in rejected:
            if name in before:
                _restore(settings, name, before[name])
        if not rejected:
            return None
        return "Settings were refused, and the old ones hold: " + "; ".join(
            f"{name}: {why}" for name, why in rejected.items()
        )

    def forget(self) -> None:
        """Expect no more answers: a new connection has the settings from its beginning."""
        self._before.clear()


def _restore(settings: ServiceSettings, name: str, value: Any) -> None:
    if name in {each.name for each in dataclasses.fields(settings)}:
        setattr(settings, name, value)
    elif is_given(value):
        settings.extra[name] = value
    else:
        settings.extra.pop(name, None)
