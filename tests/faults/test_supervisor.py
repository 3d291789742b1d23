"""What a supervisor does about children that fall, can't be started, hang, or talk too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from jobtrail.processes.child_log import RotatingLog
from jobtrail.processes.runtime import child_environment
from jobtrail.processes.supervisor import Child, ChildFailed
from jobtrail.settings import Settings
from tests.faults.flows import until

#: As little as the setting may be.
HUNG_AFTER = 3.0
#: A child that does what its first argument says, once it is ready.
PROGRAM = """
import asyncio, os, signal, sys
from jobtrail.processes.alive import keep_saying_alive
from jobtrail.processes.runtime import end_with_parent

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    end_with_parent(stop)
    what = sys.argv[1]
    if what == "fail":
        print("first\\nit hurts\\n", file=sys.stderr)
        sys.exit(3)
    if what == "talk":
        line = b"x" * 1023 + b"\\n"
        for _ in range(20 * 1024):
            os.write(2, line)
    if what == "long-line":
        os.write(1, b"y" * 300_000 + b"\\n")
    print("words", file=sys.stderr, flush=True)
    print("ready", os.getpid(), flush=True)
    await stop.wait()

asyncio.run(main())
"""

MakeChild = Callable[..., Child]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeChild]:
    """Return what makes a child of this test; it is ended with it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    children: list[Child] = []

    def child(what: str, log: Path | None = None, hung_after: float = HUNG_AFTER) -> Child:
        environment = child_environment(Settings())
        environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
        log = log or tmp_path / "child.log"
        made = Child("it", "program", [what], environment, log, hung_after, lambda: None)
        children.append(made)
        return made

    yield child
    for made in children:
        await made.stop(5.0)


async def again(child: Child, pid: int | None) -> None:
    """Wait until another process of a child is ready."""
    await until(
        lambda: child.state.state == "ready" and child.state.pid != pid, "it is ready again"
    )


async def test_a_child_that_falls_is_started_again_and_why_is_kept(make: MakeChild) -> None:
    child = make("serve")
    pid = int(await child.start())
    assert (child.state.state, child.state.pid, child.state.restarts) == ("ready", pid, 0)
    await until(lambda: child._log.last_line == "words", "its words are here")
    os.kill(pid, signal.SIGKILL)
    await again(child, pid)
    assert child.state.restarts == 1
    (end,) = child.state.ends
    assert (end.reason, end.said) == ("signal SIGKILL", "words")


async def test_a_child_that_fails_at_its_start_is_said_with_its_last_words(make: MakeChild) -> None:
    child = make("fail")
    with pytest.raises(ChildFailed) as failed:
        await child.start()
    assert failed.value.what == "The it did not start (exit status 3)."
    assert failed.value.found == "it hurts"
    assert child.log_path is not None
    assert child.log_path.read_text() == "first\nit hurts\n\n"


async def test_a_child_that_hangs_is_ended_and_started_again(make: MakeChild) -> None:
    child = make("serve")
    pid = int(await child.start())
    os.kill(pid, signal.SIGSTOP)
    await again(child, pid)
    assert [end.reason for end in child.state.ends] == ["it was silent for 3 s and was ended"]


async def test_a_pause_that_is_shorter_is_survived(make: MakeChild) -> None:
    child = make("serve", hung_after=HUNG_AFTER * 2)
    pid = int(await child.start())
    for _ in range(2):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(HUNG_AFTER)
        os.kill(pid, signal.SIGCONT)
        heard = child._heard
        await until(lambda: child._heard > heard, "it is alive")  # noqa: B023
    assert (child.state.pid, child.state.ends) == (pid, ())


async def test_a_supervisor_that_stood_still_blames_nobody(make: MakeChild) -> None:
    """A machine that slept, say: all that a child said lies in its pipe."""
    child = make("serve")
    pid = int(await child.start())
    with stopped_for(HUNG_AFTER * 1.5):
        pass
    heard = child._heard
    await until(lambda: child._heard > heard, "it is alive")
    assert (child.state.pid, child.state.ends) == (pid, ())


@contextlib.contextmanager
def stopped_for(seconds: float) -> Iterator[None]:
    """Block this process's loop for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.sched_yield()
    yield


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no file more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_child_that_cant_be_started_now_is_started_later(
    make: MakeChild, capsys: pytest.CaptureFixture[str]
) -> None:
    child = make("serve")
    pid = int(await child.start())
    with no_descriptors():
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(child.state.ends) == 3, "it could not be started twice")
        reason = child.state.ends[-1].reason
        assert "Too many open files" in reason
        assert child.state.trouble(time.time()) == (
            "it is restarting again and again, 3 times in the last 10 minutes: " + reason
        )
    await again(child, pid)
    assert "Too many open files" in capsys.readouterr().err


async def test_a_child_that_cant_be_started_at_first_fails_the_start(make: MakeChild) -> None:
    child = make("serve")
    with no_descriptors(), pytest.raises(ChildFailed, match="Too many open files"):
        await asyncio.wait_for(child.start(), 10)


async def test_a_log_that_cant_be_written_stops_nobody(make: MakeChild, tmp_path: Path) -> None:
    """Its folder is a file at first; then it can be made."""
    (tmp_path / "logs").touch()
    child = make("serve", tmp_path / "logs" / "it.log")
    pid = int(await child.start())
    await until(lambda: bool(child.state.log_fault), "that is said")
    assert "can't be written: File exists" in child.state.log_fault
    (tmp_path / "logs").unlink()
    # The child says nothing more, and still its log is tried again.
    await until(lambda: not child.state.log_fault, "that is over")
    os.kill(pid, signal.SIGKILL)
    await again(child, pid)
    log = tmp_path / "logs" / "it.log"
    await until(lambda: log.read_text().endswith("]\nwords\n"), "what it says is in the log")
    assert log.read_text().startswith("[6 bytes were not written here: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
async def test_a_full_disk_does_not_block_a_child(make: MakeChild) -> None:
    child = make("talk", Path("/dev/full"))
    await asyncio.wait_for(child.start(), 60)
    await until(lambda: "No space left" in child.state.log_fault, "that is said")


async def test_a_log_turns_over_while_its_child_runs(make: MakeChild, tmp_path: Path) -> None:
    child = make("talk")
    await child.start()
    await until(lambda: child._log.last_line == "words", "all of it is here")
    old, new = tmp_path / "child.log.1", tmp_path / "child.log"
    assert old.stat().st_size < (16 << 20) + (64 << 10)
    assert old.stat().st_size + new.stat().st_size == 20 * 1024 * 1024 + len("words\n")


async def test_a_line_without_end_harms_nobody(make: MakeChild) -> None:
    child = make("long-line")
    assert int(await child.start()) == child.state.pid


# --- the log by itself


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_keeps_one_file_beside_the_newest(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "x.log", Clock(), max_bytes=10)
    for number in range(5):
        log.write(b"%d........\n" % number)
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"x.log", "x.log.1"}
    assert (tmp_path / "x.log.1").read_bytes() == b"3........\n"
    assert (tmp_path / "x.log").read_bytes() == b"4........\n"


def test_a_log_that_is_taken_away_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "x.log"
    log = RotatingLog(path, Clock())
    log.write(b"one\n")
    path.rename(tmp_path / "elsewhere")
    path.parent.rmdir()
    log.write(b"two\n")
    assert path.read_bytes() == b"two\n"
    assert (tmp_path / "elsewhere").read_bytes() == b"one\n"


def test_what_was_lost_is_counted_and_said(tmp_path: Path) -> None:
    clock = Clock()
    blocker = tmp_path / "logs"
    blocker.touch()
    log = RotatingLog(blocker / "x.log", clock)
    log.write(b"lost\n")
    log.write(b"lost, without a try\n")
    blocker.unlink()
    log.write(b"lost too\n")
    assert log.fault
    clock.now = 1.0
    log.write(b"there\n")
    assert log.fault == ""
    assert (blocker / "x.log").read_text() == (
        f"[34 bytes were not written here: {blocker}/x.log can't be written: File exists]\nthere\n"
    )


@pytest.mark.parametrize(
    ("chunks", "last"),
    [
        ([b"a\nb\n"], "b"),
        ([b"a\n", b"b"], "a"),
        ([b"a", b"b\n\n  \n"], "ab"),
        ([b"\xff\n"], "\ufffd"),
        ([b"x" * 10_000 + b"\n"], "x" * 500),
    ],
)
def test_the_last_line_is_known(tmp_path: Path, chunks: list[bytes], last: str) -> None:
    log = RotatingLog(tmp_path / "x.log", Clock())
    for chunk in chunks:
        log.write(chunk)
    assert log.last_line == last
    log.begin()
    assert log.last_line == ""
