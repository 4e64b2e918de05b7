"""Listening on a Unix socket: who may connect, and whose place it takes."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from slng_sidecar.serving import CannotListen, listen_unix


@pytest.fixture
def umask_of_nobody() -> Iterator[None]:
    """Take no permission away, as careless start scripts do."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.usefixtures("umask_of_nobody")
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_socket_has_the_permissions_that_are_set_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s.sock"
    with listen_unix(path, mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen_unix(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listen_unix(path, 0o600):
        with pytest.raises(CannotListen, match="in use"):
            listen_unix(path, 0o600)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_socket_that_cannot_be_asked_is_left_alone(tmp_path: Path) -> None:
    # Of another kind here; as a rule it is another user's, which root may always connect to.
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(CannotListen, match="in use"):
            listen_unix(path, 0o600)
        assert path.is_socket()
