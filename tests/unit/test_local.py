"""Who the local service is: what run.json is believed, and what it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jobtrail.core.errors import NotRunning
from jobtrail.local.running import FILE, Running, read_running
from jobtrail.processes.pids import birth_of
from jobtrail.processes.process_states import End, ProcessState


def write_running(folder: Path, running: Running) -> None:
    (folder / FILE).write_bytes(msgspec.json.encode(running))


def running(pid: int, birth: str | None) -> Running:
    return Running(pid, birth or "", "http://127.0.0.1:1", "127.0.0.1:2", "1.0")


def test_a_service_that_runs_is_found_until_it_says_that_it_has_stopped(tmp_path: Path) -> None:
    ours = running(os.getpid(), birth_of(os.getpid()))
    write_running(tmp_path, ours)
    assert read_running(tmp_path) == ours
    (tmp_path / FILE).unlink()
    with pytest.raises(NotRunning):
        read_running(tmp_path)


def test_a_number_that_another_process_has_now_is_not_believed(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = running(child.pid, birth_of(child.pid))
    assert gone.birth
    write_running(tmp_path, gone)
    assert read_running(tmp_path) == gone
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(NotRunning):  # it is dead, though not reaped yet
        read_running(tmp_path)
    child.communicate()
    with pytest.raises(NotRunning):
        read_running(tmp_path)
    # The number is given again: to us, say.
    write_running(tmp_path, msgspec.structs.replace(gone, pid=os.getpid()))
    with pytest.raises(NotRunning):
        read_running(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"pid": 1}'])
def test_a_torn_file_names_no_service(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(NotRunning):
        read_running(tmp_path)


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70])
def test_a_number_that_is_no_process_has_no_birth(pid: int) -> None:
    assert pid == 0 or birth_of(pid) is None


def test_the_trouble_of_a_process_is_said_until_it_has_passed() -> None:
    steady = ProcessState("api-0", "ready", since=0.0, pid=5, started_at=0.0)
    assert steady.trouble(1.0) is None
    fallen = steady.ended(End(100.0, "exit status 1", "it hurts"))
    assert fallen.trouble(100.5) == (
        "api-0 is not running and is started again soon: exit status 1; its last words: it hurts"
    )
    again = msgspec.structs.replace(fallen, state="ready", since=103.0)
    assert again.trouble(104.0) is None
    for at in (110.0, 120.0):
        again = msgspec.structs.replace(again.ended(End(at, "signal SIGKILL")), state="ready")
    again = msgspec.structs.replace(again, since=121.0)
    assert again.trouble(122.0) == (
        "api-0 is restarting again and again, 3 times in the last 10 minutes: signal SIGKILL"
    )
    assert again.trouble(180.0) is not None
    assert again.trouble(181.0) is None, "ready for a minute: that has passed"
