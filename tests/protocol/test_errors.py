from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.errors import (
    MAX_CLOSE_REASON,
    STATUS_OF_CODE,
    Close,
    GatewayError,
    close_reason,
    is_retryable,
)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False), (401, False), (403, False), (404, False), (405, False), (413, False), (499, False),
        (408, True), (409, True), (425, True), (429, True),
        (500, True), (502, True), (503, True), (599, True), (301, True),
    ],
)  # fmt: skip
def test_only_some_4xx_are_retryable(status: int, retryable: bool) -> None:
    assert is_retryable(status) is retryable
    assert GatewayError("anything", "m", status=status).retryable is retryable


@pytest.mark.parametrize(("code", "status"), sorted(STATUS_OF_CODE.items()))
def test_a_code_stands_for_its_status(code: str, status: int) -> None:
    assert GatewayError(code, "m").status == status


def test_an_unknown_code_is_an_error_of_upstream() -> None:
    error = GatewayError("new_code", "m")

    assert (error.status, error.retryable, error.fatal) == (502, True, True)


def test_an_explicit_status_takes_precedence_over_that_of_the_code() -> None:
    assert GatewayError("auth_error", "m", status=403).status == 403


def test_the_message_has_the_shape_of_the_contract() -> None:
    error = GatewayError(
        "auth_error", "wrong key", status=403, fatal=False, context_id="c1", upstream={"status": 403, "reason": "no"}
    )

    assert error.as_message() == {
        "type": "error",
        "code": "auth_error",
        "message": "wrong key",
        "retryable": False,
        "fatal": False,
        "context_id": "c1",
        "upstream": {"status": 403, "reason": "no"},
        "data": {"code": "auth_error", "message": "wrong key"},
    }
    assert error.as_fields() == {key: value for key, value in error.as_message().items() if key != "type"}
    assert str(error) == "wrong key"
    assert repr(error) == "GatewayError('auth_error', 'wrong key', status=403, fatal=False)"


def test_unknown_fields_are_left_out() -> None:
    assert set(GatewayError("bad_request", "m").as_message()) == {
        "type", "code", "message", "retryable", "fatal", "data",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "close_code"),
    [
        ("bad_request", 1008),
        ("auth_error", 1008),
        ("config_error", 1008),
        ("local_auth", 1008),
        ("payload_too_large", 1008),
        ("upstream_closed", 1011),
        ("upstream_unreachable", 1011),
        ("upstream_timeout", 1011),
        ("provider_error", 1011),
        ("internal_error", 1011),
        ("idle_timeout_exceeded", 1011),
        ("rate_limit", 1013),
        ("session_limit", 1013),
        ("not_ready", 1013),
        ("backpressure", 1013),
        ("draining", 1012),
    ],
)
def test_the_close_code_shows_whose_fault_it_was(code: str, close_code: int) -> None:
    assert GatewayError(code, "m").close_code == close_code


def test_a_short_reason_is_kept() -> None:
    assert close_reason("bad_request: é") == "bad_request: é"


def test_a_long_reason_is_cut_between_characters() -> None:
    assert close_reason("x" * 200) == "x" * 123
    assert close_reason("é" * 100) == "é" * 61
    assert close_reason("x" + "é" * 100) == "x" + "é" * 61


@given(st.text(st.characters(categories=("L", "So", "Cs", "Cc")), max_size=150))
def test_any_reason_fits_a_close_frame(text: str) -> None:
    assert len(close_reason(text).encode()) <= MAX_CLOSE_REASON


@pytest.mark.parametrize(
    ("code", "is_clean"), [(1000, True), (1005, True), (1006, False), (1011, False), (None, False)]
)
def test_a_clean_close_is_1000_or_no_code(code: int | None, is_clean: bool) -> None:
    assert Close(GatewayError("upstream_closed", "m"), code).is_clean is is_clean


def test_a_code_that_is_not_in_the_table_is_neither_logged_nor_counted() -> None:
    error = GatewayError("what the caller said", "and more of it", upstream={"status": 500})
    assert (error.known_code, error.for_log) == ("other", "other (status 500)")
    assert GatewayError("auth_error", "").known_code == "auth_error"
