"""Errors of the sidecar as Pipecat's error categories."""

from __future__ import annotations

import json

import pytest
from pipecat.utils.errors import ErrorCategory
from pipecat_slng_sidecar.failures import failure_from_error, failure_from_reply
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
def test_a_fatal_error_gets_its_category_from_its_code(code: str, category: ErrorCategory, permanent: bool) -> None:
    failure = failure_from_error(GatewayError(code, "text").as_message())
    assert (failure.category, failure.permanent, failure.message) == (category, permanent, "text")


@pytest.mark.parametrize("code", STATUS_OF_CODE)
def test_an_error_that_is_not_fatal_never_makes_the_service_unusable(code: str) -> None:
    failure = failure_from_error(GatewayError(code, "text", fatal=False).as_message())
    assert not failure.permanent
    assert not failure.category.is_permanent


def test_an_unknown_code_gets_its_category_from_upstream_s_status() -> None:
    error = GatewayError("something_new", "text", status=402, upstream={"status": 402})
    assert failure_from_error(error.as_message()).category is ErrorCategory.QUOTA


def test_a_refusal_is_parsed_from_its_body() -> None:
    body = json.dumps({"error": GatewayError("session_limit", "Too many.").as_fields()}).encode()
    failure = failure_from_reply(429, body, "address")
    assert (failure.message, failure.category, failure.permanent) == ("Too many.", ErrorCategory.RATE_LIMIT, False)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": "Not Found"}', None])
def test_a_reply_from_another_server_is_reported_as_such(body: bytes | None) -> None:
    failure = failure_from_reply(404, body, "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 answered 404 and is not a slng-sidecar" in failure.message
    assert failure.permanent
