from __future__ import annotations

import pytest
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.reconnect import ReconnectPolicy

LOST = GatewayError("upstream_closed", "gone")


def test_delays_grow_from_zero_to_five_seconds() -> None:
    policy = ReconnectPolicy(1000, lambda: 0.5)
    now, waits = 0.0, []
    for _ in range(9):
        due = policy.next_attempt(LOST, None, now)
        waits.append(due - now)
        now = due
    assert waits == [0, 0.25, 0.5, 1, 2, 4, 5, 5, 5]


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 0.125), (1.0, 0.375)])
def test_jitter_moves_a_delay_by_half_either_way(jitter: float, wait: float) -> None:
    policy = ReconnectPolicy(1000, lambda: jitter)
    policy.next_attempt(LOST, None, 0)
    assert policy.next_attempt(LOST, None, 0) == wait


def test_a_permanent_refusal_ends_the_retries_but_busy_does_not() -> None:
    policy = ReconnectPolicy(60, lambda: 0.5)
    with pytest.raises(GatewayError) as caught:
        policy.next_attempt(GatewayError("auth_error", "key"), 100, 0)
    assert caught.value.fatal
    assert policy.next_attempt(GatewayError("rate_limit", "busy"), 100, 0) == 0


def test_three_short_connections_in_a_row_end_the_retries_and_a_long_one_restarts_the_count() -> None:
    policy = ReconnectPolicy(60, lambda: 0.5)
    for lived in (1, 1, 6, 1, 4.9):
        policy.next_attempt(LOST, lived, 0)
        policy.connected()
    with pytest.raises(GatewayError, match="3 connections in a row"):
        policy.next_attempt(LOST, 1, 0)


def test_each_outage_ends_when_its_own_time_is_up() -> None:
    policy = ReconnectPolicy(10, lambda: 0.5)
    policy.next_attempt(LOST, 100, 0)
    policy.next_attempt(LOST, None, 9.5)
    with pytest.raises(GatewayError, match="within 10 s"):
        policy.next_attempt(LOST, None, 10)
    policy.connected()
    assert policy.next_attempt(LOST, 100, 50) == 50
