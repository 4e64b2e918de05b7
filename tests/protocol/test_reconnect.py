from __future__ import annotations

import pytest
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.reconnect import ReconnectPolicy

LOST = GatewayError("upstream_closed", "gone")


def test_delays_grow_from_none_to_five_seconds() -> None:
    recovery = ReconnectPolicy(1000, lambda: 0.5)
    now, waits = 0.0, []
    for _ in range(9):
        due = recovery.lost(LOST, None, now)
        waits.append(due - now)
        now = due
    assert waits == [0, 0.25, 0.5, 1, 2, 4, 5, 5, 5]


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 0.125), (1.0, 0.375)])
def test_jitter_moves_a_delay_by_half_either_way(jitter: float, wait: float) -> None:
    recovery = ReconnectPolicy(1000, lambda: jitter)
    recovery.lost(LOST, None, 0)
    assert recovery.lost(LOST, None, 0) == wait


def test_a_refusal_for_good_ends_the_trying_but_busy_does_not() -> None:
    recovery = ReconnectPolicy(60, lambda: 0.5)
    with pytest.raises(GatewayError) as caught:
        recovery.lost(GatewayError("auth_error", "key"), 100, 0)
    assert caught.value.fatal
    assert recovery.lost(GatewayError("rate_limit", "busy"), 100, 0) == 0


def test_three_quick_lives_in_a_row_end_it_and_a_long_one_starts_the_count_again() -> None:
    recovery = ReconnectPolicy(60, lambda: 0.5)
    for lived in (1, 1, 6, 1, 4.9):
        recovery.lost(LOST, lived, 0)
        recovery.ready()
    with pytest.raises(GatewayError, match="3 connections in a row"):
        recovery.lost(LOST, 1, 0)


def test_an_outage_ends_when_its_time_is_up_and_each_has_its_own() -> None:
    recovery = ReconnectPolicy(10, lambda: 0.5)
    recovery.lost(LOST, 100, 0)
    recovery.lost(LOST, None, 9.5)
    with pytest.raises(GatewayError, match="within 10 s"):
        recovery.lost(LOST, None, 10)
    recovery.ready()
    assert recovery.lost(LOST, 100, 50) == 50
