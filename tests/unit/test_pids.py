"""Which process a number is, and whether it is the one who listens on a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from jobtrail.processes.pids import birth_of, listens


def test_who_listens_on_a_port() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other,
    ):
        port = server.getsockname()[1]
        assert listens(os.getpid(), port)
        assert not listens(other.pid, port)
        other.communicate(b"\n")
        assert birth_of(other.pid) is None
        assert not listens(other.pid, port)
    assert not listens(os.getpid(), port)


def test_who_is_connected_to_a_port_does_not_listen_there() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert not listens(os.getpid(), client.getsockname()[1])


@pytest.mark.parametrize("pid", [-1, 2**31 - 1, 2**70])
def test_no_process_listens_nowhere(pid: int) -> None:
    assert not listens(pid, 80)
