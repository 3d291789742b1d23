"""How processes are started, and what their logging lets through of packages that repeat."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from jobtrail.processes.runtime import LogRateLimiter, broker_environment, child_environment
from jobtrail.settings import Settings


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def said(seldom: LogRateLimiter, name: str, message: str, *arguments: object) -> str | None:
    """Return what is written of a message, None for nothing."""
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, arguments, None)
    return record.getMessage() if seldom.filter(record) else None


def test_the_same_thing_is_said_once_in_ten_seconds_and_then_how_often() -> None:
    clock = Clock()
    seldom = LogRateLimiter(clock=clock)
    lost = "Failed fetch messages from %s: %s"
    assert said(seldom, "aiokafka.consumer.fetcher", lost, 1, "a") == (
        "Failed fetch messages from 1: a"
    )
    for number in range(400):
        clock.now = number / 40
        assert said(seldom, "aiokafka.consumer.fetcher", lost, number, "100% gone") is None
    # Another message and another logger have their own turn.
    assert said(seldom, "aiokafka.consumer.fetcher", "other %d", 1) == "other 1"
    assert said(seldom, "aiokafka", lost, 1, "a") == "Failed fetch messages from 1: a"
    clock.now = 12.0
    assert said(seldom, "aiokafka.consumer.fetcher", lost, 7, "100% gone") == (
        "Failed fetch messages from 7: 100% gone (400 more like this in 12 s)"
    )
    clock.now = 23.0
    assert said(seldom, "aiokafka.consumer.fetcher", lost, 8, "b") == (
        "Failed fetch messages from 8: b"
    )


def test_our_own_messages_all_pass() -> None:
    seldom = LogRateLimiter(clock=Clock())
    for name in ("projections.projector.projector", "aiokafkaesque", "root"):
        assert [said(seldom, name, "action=x") for _ in range(3)] == ["action=x"] * 3


def test_only_so_many_messages_are_remembered() -> None:
    seldom = LogRateLimiter(clock=Clock())
    for number in range(5_000):
        assert said(seldom, "mode", f"put together {number}") is not None
    assert len(seldom._seen) == 1_000
    assert said(seldom, "mode", "put together 4999") is None


@pytest.mark.parametrize("module", ["projections.skip", "projections", "services.broker"])
def test_a_process_is_ours_wherever_the_user_happens_to_be(tmp_path: Path, module: str) -> None:
    """Their folder may have packages of these names, or a module that others have put there."""
    for name in ("services", "projections", "jobtrail", "aiokafka", "msgspec", "click"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('theirs')\n")
    settings = Settings(data_dir=tmp_path / "data")
    made = broker_environment if module == "services.broker" else child_environment
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=tmp_path,
        env=made(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout.lower()
