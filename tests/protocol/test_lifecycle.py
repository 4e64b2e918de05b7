from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.lifecycle import Lifecycle, base64_refused, check_init, second_init
from support.conversation import odd_objects


@pytest.mark.parametrize(
    ("message", "config"),
    [
        ({"type": "init"}, {}),
        ({"type": "init", "config": None}, {}),
        ({"type": "init", "config": {}}, {}),
        (
            {"config": {"sample_rate": 8000, "encoding": "mulaw", "x": [1]}},
            {"sample_rate": 8000, "encoding": "mulaw", "x": [1]},
        ),
        ({"config": {"sample_rate": 1000}}, {"sample_rate": 1000}),
        ({"config": {"sample_rate": 384_000}}, {"sample_rate": 384_000}),
        ({"config": {"sample_rate": None, "encoding": None}}, {"sample_rate": None, "encoding": None}),
    ],
)
def test_a_valid_init_returns_its_config(message: dict[str, Any], config: dict[str, Any]) -> None:
    assert check_init(message) == config


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ([], "config"),
        ("linear16", "config"),
        (0, "config"),
        ({"sample_rate": "16000"}, "config.sample_rate"),
        ({"sample_rate": 16000.5}, "config.sample_rate"),
        ({"sample_rate": True}, "config.sample_rate"),
        ({"sample_rate": 999}, "config.sample_rate"),
        ({"sample_rate": -16000}, "config.sample_rate"),
        ({"sample_rate": 384_001}, "config.sample_rate"),
        ({"sample_rate": 10**400}, "config.sample_rate"),
        ({"encoding": 16}, "config.encoding"),
        ({"encoding": ["linear16"]}, "config.encoding"),
    ],
)
def test_an_invalid_init_is_refused_with_the_name_of_the_field(config: object, named: str) -> None:
    with pytest.raises(GatewayError) as caught:
        check_init({"type": "init", "config": config})

    assert caught.value.code == "config_error"
    assert caught.value.fatal
    assert named in caught.value.message


@given(odd_objects)
def test_any_init_returns_a_config_or_is_refused(message: dict[str, Any]) -> None:
    with contextlib.suppress(GatewayError):
        assert isinstance(check_init(json.loads(json.dumps(message))), dict)


def test_a_failed_opening_names_the_remedy() -> None:
    life = Lifecycle(30, 5)
    life.start(1000)
    assert life.init_overdue(1029) is None
    overdue, second, base64 = life.init_overdue(1030), second_init(), base64_refused()

    assert overdue is not None
    assert overdue.fatal
    assert '{"type":"init"}' in overdue.message
    assert "30 s" in overdue.message
    assert not second.fatal
    assert "ignored" in second.message
    assert (base64.code, base64.status, base64.fatal, base64.retryable) == (
        "unsupported_audio_format", 400, False, False,
    )  # fmt: skip
    assert "binary" in base64.message
