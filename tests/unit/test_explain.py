"""What `jobtrail explain` says of a job: each verdict in words, and where the time went."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from rich.console import Console

from jobtrail import events as ev
from jobtrail.cli.explain import show
from jobtrail.client.results import HistoryEntry
from jobtrail.client.results import Job as Answer
from jobtrail.fold import fold
from jobtrail.job import Job, Place
from jobtrail.replay.durations import duration
from jobtrail.replay.explain import Explanation, explain
from jobtrail.states import State

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
CREATED = ("created", 0, {"jobType": "nightly", "owner": "alice"})


def event(kind: str, second: float, data: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": name,
        "source": "//tests",
        "type": f"job.{kind}",
        "subject": "j",
        "time": (NOON + timedelta(seconds=second)).isoformat(),
        "data": data,
    }


def answers(*steps: tuple[Any, ...], lost: tuple[int, ...] = ()) -> tuple[Answer, list[Any]]:
    """Return what the service answers of a job: (kind, second, data, event id) for each event."""
    job: Job | None = None
    history = []
    for at, (kind, second, *rest) in enumerate(steps):
        data = rest[0] if rest else {}
        name = rest[1] if len(rest) > 1 else f"e{at}"
        body = event(kind, second, data, name)
        decoded = ev.decode(msgspec.json.encode(body))
        time = NOON + timedelta(seconds=second)
        job, verdict = fold(job, decoded, Place(3, at, ev.microseconds(time)))
        content = None if at in lost else body
        history.append(HistoryEntry(f"job.{kind}", time, verdict, job.state, 3, at, content))
    assert job is not None
    end = NOON + timedelta(seconds=steps[-1][1])
    answer = Answer(
        *("j", job.state, None, job.job_type, job.owner, None, NOON, None, end, None),
        *(job.attempt, None, None, {}, ()),
    )
    return answer, history


def told(*steps: tuple[Any, ...], lost: tuple[int, ...] = (), now: float = 0) -> Explanation:
    job, history = answers(*steps, lost=lost)
    return explain(job, history, NOON + timedelta(seconds=now))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([CREATED], "ordered by alice, as nightly"),
        ([CREATED, ("active", 1)], "taken up"),
        ([CREATED, ("active", 1, {"worker": "w7"})], "taken up by w7"),
        ([CREATED, ("progress", 1, {"progress": 0.4, "message": "sorting"})], "40%: sorting"),
        ([CREATED, ("progress", 1)], "at work"),
        (
            [CREATED, ("retry", 1, {"error": {"message": "timed out"}})],
            "to be tried again: timed out",
        ),
        ([CREATED, ("retry", 1)], "to be tried again"),
        ([CREATED, ("completed", 1, {"output": [1]})], "done"),
        ([CREATED, ("failed", 1, {"error": [1, 2]})], "failed: [1,2]"),
        ([CREATED, ("failed", 1, {"error": "x" * 500})], f"failed: {'x' * 119}…"),
        ([CREATED, ("cancelled", 1, {"reason": "not needed"})], "cancelled: not needed"),
        ([CREATED, ("expired", 1)], "its time ran out"),
        (
            [CREATED, ("cancelled", 1), ("created", 2, {"jobType": "nightly", "owner": "bob"})],
            "resumed by bob, as nightly",
        ),
    ],
)
def test_what_was_applied_is_told(steps: list[Any], words: str) -> None:
    assert told(*steps).events[-1].why == words


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            [CREATED, ("active", 1, {}, "a"), ("active", 2, {}, "a")],
            "ignored: the job has seen an event of this id, at 3:1",
        ),
        (
            [CREATED, ("active", 1, {"attempt": 2}), ("failed", 2, {"attempt": 0})],
            "ignored: its attempt 0 is behind the job's 2",
        ),
        (
            [CREATED, ("completed", 1), ("active", 2, {"attempt": 1})],
            "ignored: the table has no transition from completed to active",
        ),
        (
            [CREATED, ("failed", 1), ("active", 2)],
            "ignored: from failed to active takes a higher attempt than the job's 0",
        ),
        (
            [CREATED, ("completed", 1), ("progress", 2, {"progress": 1})],
            "ignored: progress of a job that has ended: it is completed",
        ),
        (
            [("active", 1), CREATED],
            "it came after the fact, and only fills in what the job is and whose: "
            "nightly, of alice",
        ),
    ],
)
def test_why_an_event_was_not_applied_is_told(steps: list[Any], words: str) -> None:
    assert told(*steps).events[-1].why == words


def test_what_the_log_has_lost_is_not_made_up() -> None:
    steps = [CREATED, ("active", 1, {"attempt": 4}), ("failed", 2, {"attempt": 1}), ("active", 3)]
    found = told(*steps, lost=(1,)).events
    assert [line.attempt for line in found] == [0, None, 1, None]
    assert found[1].why == "the log does not hold its content any more"
    assert found[2].why == "ignored: it belongs to an attempt that is over"
    again = told(CREATED, ("active", 1, {}, "a"), ("active", 2, {}, "a"), lost=(1, 2)).events
    assert again[2].why == "ignored: the job has seen an event of this id"


def test_where_the_time_went() -> None:
    found = told(
        *(CREATED, ("active", 10), ("progress", 12), ("retry", 15), ("active", 35)),
        *(("failed", 60), ("retry", 80), ("active", 85), ("completed", 100)),
        now=1e6,
    )
    assert [(stay.phase, stay.attempt, stay.seconds) for stay in found.stays] == [
        ("waiting", 0, 10),
        ("running", 0, 5),
        ("in retry", 0, 20),
        ("running", 1, 25),
        ("ended", 1, 20),
        ("in retry", 1, 5),
        ("running", 2, 15),
    ]
    assert found.total == 100
    assert [(part.name, part.seconds, part.share) for part in found.parts] == [
        ("waiting", 10, 0.1),
        ("running, attempt 0", 5, 0.05),
        ("in retry", 25, 0.25),
        ("running, attempt 1", 25, 0.25),
        ("ended", 20, 0.2),
        ("running, attempt 2", 15, 0.15),
    ]


def test_what_goes_on_is_counted_up_to_now_and_time_never_runs_backwards() -> None:
    found = told(CREATED, ("active", -5), now=20)
    assert [(s.phase, s.end is None, s.seconds) for s in found.stays] == [
        ("waiting", False, 0),
        ("running", True, 25),
    ]
    assert told(("completed", 0), now=9).stays == []
    assert told(("progress", 0), now=9).stays[0].phase == "waiting"


def printed(found: Explanation, width: int = 160) -> str:
    file = io.StringIO()
    show(found, Console(file=file, width=width, color_system=None))
    return file.getvalue()


def test_the_terminal_shows_every_event_and_bars_as_long_as_the_stays() -> None:
    steps = [CREATED, ("active", 10), ("active", 11), ("retry", 30), ("active", 90)]
    text = printed(told(*steps, ("completed", 100)))
    assert "j  nightly of alice  completed, attempt 1" in text
    assert "ignored: from active to active takes a higher attempt than the job's 0" in text
    assert "not-allowed" in text
    bars = {
        line.split("█")[0].strip(): line.count("█") for line in text.splitlines() if "█" in line
    }
    assert list(bars) == ["waiting", "running, attempt 0", "in retry", "running, attempt 1"]
    whole = sum(bars.values())
    assert bars["in retry"] == pytest.approx(0.6 * whole, abs=1)
    assert bars["running, attempt 0"] == pytest.approx(0.2 * whole, abs=1)
    assert "1 min 40 s" in text
    assert "60.0%" in text


def test_many_stays_and_strange_names_leave_the_chart_readable() -> None:
    steps: list[Any] = [("created", 0, {"jobType": "[bold]x[/]", "owner": "[red]"})]
    for n in range(40):
        steps += [("active", 2 * n + 1), ("retry", 2 * n + 2)]
    text = printed(told(*steps, now=100), width=80)
    assert "[bold]x[/] of [red]" in text
    assert "… 65 more" in text
    assert text.count("█") >= 16
    assert max(map(len, text.splitlines())) <= 80
    assert State.RETRY in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.000_4, "0.4 ms"),
        (0.0123, "12.3 ms"),
        (0.25, "0.25 s"),
        (0.9999, "1 s"),
        (1.94, "1.94 s"),
        (59.97, "1 min"),
        (61, "1 min 1 s"),
        (3599.9, "1 h"),
        (7500, "2 h 5 min"),
        (86_399, "1 d"),
        (93_600, "1 d 2 h"),
        (8_640_000_000, "100,000 d"),
        (-61, "-1 min 1 s"),
    ],
)
def test_lengths_of_time_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words
