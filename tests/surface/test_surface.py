"""What users depend on is as it was when it was recorded: nothing was removed, added or changed by accident.

Each file in `recorded/` is one subject. Texts for people (descriptions, help, titles) are not part of it, nor are the
names and places of modules and private classes. AsyncAPI may gain descriptions of more messages. Everything else must
be equal.

`tests/docs/test_asyncapi.py` shows that the sessions and AsyncAPI agree on the types of messages, and that no message
has a field that AsyncAPI lacks. The subject `wire` adds what that test cannot notice: an optional field that no longer
comes, and what the gateway sends to SLNG or answers over HTTP.
"""

from __future__ import annotations

import pytest
from surface.collect import SUBJECTS
from surface.compare import RECORDED, differences, explain, narrows_what_clients_send, recorded
from surface.wire import wire


@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name != "asyncapi"])
def test_the_surface_is_as_recorded(subject: str) -> None:
    found = list(differences(recorded(subject), SUBJECTS[subject](recorded(subject))))
    assert not found, explain(subject, found)


def test_asyncapi_has_everything_that_is_recorded() -> None:
    found = [
        each
        for each in differences(recorded("asyncapi"), SUBJECTS["asyncapi"]({}))
        if each.what != "added" or narrows_what_clients_send(each)
    ]
    assert not found, explain("asyncapi", found)


async def test_the_wire_is_as_recorded() -> None:
    found = list(differences(recorded("wire"), await wire()))
    assert not found, explain("wire", found)


def test_every_recorded_file_has_a_subject() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {*SUBJECTS, "wire"}
