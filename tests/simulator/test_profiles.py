from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from slng_sidecar.simulator import BadProfile, RouteProfile, Simulator, SimulatorOptions, parse_profile, parse_script
from slng_sidecar.simulator.faults import KINDS, MOMENTS, actions
from support.paths import ROOT

PAGE = ROOT / "docs/reference/simulator.md"
TUTORIAL = ROOT / "docs/start/test-your-bot-against-faults.md"


def test_profile_fields_are_parsed_as_people_write_them() -> None:
    given = ["terminal=flushed", "pace=2.5", "segments=true", "confidence=null", "max_reason=too long"]
    assert parse_profile(given) == {
        "terminal": "flushed",
        "pace": 2.5,
        "segments": True,
        "confidence": None,
        "max_reason": "too long",
    }


@pytest.mark.parametrize(
    ("assignment", "message_part"),
    [
        ("mood=1", "no field 'mood'"),
        ("pace", "name=value"),
        ("pace=fast", "pace takes a number"),
        ("pace=NaN", "pace takes a number"),
        ("finals=1.5", "finals takes a whole number"),
        ("segments=1", "segments takes true or false"),
        ("confidence=2", "confidence takes a number of 0 to 1"),
        ("terminal=bang", "terminal takes one of"),
    ],
)
def test_impossible_profile_fields_are_refused(assignment: str, message_part: str) -> None:
    with pytest.raises(BadProfile, match=message_part):
        parse_profile([assignment])


def test_a_route_overrides_the_common_profile_and_overrides_override_the_route() -> None:
    options = SimulatorOptions.fast(profile={"after_turn": "open", "final_ms": 7}, terminal="flushed")
    simulator = Simulator(options)
    rime = simulator.profile_for("tts", "slng/rime/arcana:3-en")
    assert (rime.after_turn, rime.terminal) == ("close", "flushed")
    assert simulator.profile_for("stt", "gradium/stt:default").final_ms == 400
    forced = Simulator(SimulatorOptions.fast(after_turn="open"))
    assert forced.profile_for("tts", "slng/rime/arcana:3-en").after_turn == "open"


def test_a_fast_simulator_adds_no_latency() -> None:
    assert Simulator(SimulatorOptions.fast()).profile_for("stt", "slng/deepgram/nova:3-en").final_ms == 0
    assert Simulator(SimulatorOptions()).profile_for("stt", "slng/deepgram/nova:3-en").final_ms == 400


def test_the_page_names_every_profile_field_fault_and_moment() -> None:
    page = PAGE.read_text(encoding="utf-8")
    wanted = {*(field.name for field in fields(RouteProfile)), *actions(), *MOMENTS, *KINDS}
    wanted |= {name for arguments in actions().values() for name in arguments}
    assert {name for name in wanted if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", [PAGE, TUTORIAL], ids=lambda page: page.name)
def test_the_faults_on_the_page_are_understood(page: Path) -> None:
    scripts = re.findall(r"-d '(.*)'", page.read_text(encoding="utf-8"))
    assert len(scripts) >= 5
    for script in scripts:
        parse_script(json.loads(script))


def test_the_page_has_the_default_of_every_profile_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for field in fields(RouteProfile):
        default = "empty" if field.default == "" else json.dumps(field.default).strip('"')
        assert f"| `{field.name}` | `{default}` |" in page
