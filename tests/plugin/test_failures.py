"""Errors of the sidecar as Pipecat's error categories."""

from __future__ import annotations

import json

import pytest
from pipecat.utils.errors import ErrorCategory
from pipecat_slng_sidecar.failures import failure_of, failure_of_reply
from slng_sidecar.protocol.errors import STATUS_OF_CODE, GatewayError


@pytest.mark.parametrize(
    ("code", "category", "permanent"),
    [
        ("auth_error", ErrorCategory.AUTHENTICATION, True),
        ("local_auth", ErrorCategory.AUTHENTICATION, True),
        ("forbidden_origin", ErrorCategory.AUTHORIZATION, True),
        ("config_error", ErrorCategory.INVALID_REQUEST, True),
        ("rate_limit", ErrorCategory.RATE_LIMIT, False),
        ("session_limit", ErrorCategory.RATE_LIMIT, False),
        ("upstream_unreachable", ErrorCategory.CONNECTIVITY, False),
        ("provider_error", ErrorCategory.SERVER, False),
        ("draining", ErrorCategory.CONNECTIVITY, False),
    ],
)
def test_a_fatal_error_is_classified_by_its_code(code: str, category: ErrorCategory, permanent: bool) -> None:
    failure = failure_of(GatewayError(code, "text").as_message())
    assert (failure.category, failure.permanent, failure.message) == (category, permanent, "text")


@pytest.mark.parametrize("code", STATUS_OF_CODE)
def test_an_error_that_is_not_fatal_leaves_the_service_usable(code: str) -> None:
    failure = failure_of(GatewayError(code, "text", fatal=False).as_message())
    assert not failure.permanent
    assert not failure.category.is_permanent


def test_the_upstream_status_classifies_what_the_code_does_not() -> None:
    error = GatewayError("something_new", "text", status=402, upstream={"status": 402})
    assert failure_of(error.as_message()).category is ErrorCategory.QUOTA


def test_a_refusal_is_read_from_its_body() -> None:
    body = json.dumps({"error": GatewayError("session_limit", "Too many.").as_fields()}).encode()
    failure = failure_of_reply(429, body, "address")
    assert (failure.message, failure.category, failure.permanent) == ("Too many.", ErrorCategory.RATE_LIMIT, False)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": "Not Found"}', None])
def test_a_server_that_is_no_sidecar_is_reported_as_such(body: bytes | None) -> None:
    failure = failure_of_reply(404, body, "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 answered 404 and is no slng-sidecar" in failure.message
    assert failure.permanent
