"""Settings that change while a service runs: the ``update`` messages and the sidecar's answers to them."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from pipecat.services.settings import ServiceSettings
from pipecat.utils.types import is_given

from pipecat_slng_sidecar.stt_replay_queue import SessionInit


class PendingUpdates:
    """The updates of one service that the sidecar has not answered yet.

    Mutable: ``_old_values``, by update id, the values that the changed fields had before the update.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._old_values: dict[str, dict[str, Any]] = {}

    def build(self, changed: dict[str, Any], after: SessionInit) -> dict[str, Any]:
        """Return the ``update`` message for changed settings, and keep the old values until it is answered.

        Args:
            changed: the changed fields with their old values.
            after: the settings that apply from now on.
        """
        update_id = f"u{next(self._ids)}"
        self._old_values[update_id] = changed
        message: dict[str, Any] = {"type": "update", "id": update_id}
        for name in changed:
            if name == "model":
                message["model"] = after.model
            elif name == "voice":
                message["voice"] = after.init.get("voice")
            else:
                message.setdefault("config", {})[name] = after.init["config"].get(name)
        return message

    def resolve(self, answer: dict[str, Any], settings: ServiceSettings) -> str | None:
        """Restore the old values of the settings that the sidecar refused.

        Args:
            answer: the sidecar's ``updated`` message.
            settings: the settings of the service, which are changed in place.

        Returns:
            An error message with the refused settings and the reasons, or ``None`` if none was refused.
        """
        old_values = self._old_values.pop(str(answer.get("id")), {})
        rejected = answer.get("rejected") or {}
        for name in rejected:
            if name in old_values:
                _restore(settings, name, old_values[name])
        if not rejected:
            return None
        return "Some settings were refused and keep their old values: " + "; ".join(
            f"{name}: {reason}" for name, reason in rejected.items()
        )

    def clear(self) -> None:
        """Expect no more answers, because a new connection starts with the current settings."""
        self._old_values.clear()


def _restore(settings: ServiceSettings, name: str, value: Any) -> None:
    if name in {each.name for each in dataclasses.fields(settings)}:
        setattr(settings, name, value)
    elif is_given(value):
        settings.extra[name] = value
    else:
        settings.extra.pop(name, None)
