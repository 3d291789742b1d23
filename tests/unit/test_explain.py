"""A job's history in words: what happened, why it did not count, where time went."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from jobtrail.cli.explain import show
from jobtrail.client import HistoryEntry
from jobtrail.client import Job as Answer
from jobtrail.client.explain import StateSpan, explain_history
from jobtrail.core import events as ev
from jobtrail.core.durations import duration
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, kept_trail
from jobtrail.core.states import State
from jobtrail.core.trail import Verdict, read_trail
from jobtrail.terminal.tables import Screen

NOON = datetime(2026, 11, 23, 13, tzinfo=UTC)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def history(*happened: tuple[str, float, dict[str, Any]], same_id: int = -1) -> list[HistoryEntry]:
    """Return the entries that the service gives of events (type, second, data), folded."""
    job: Job | None = None
    entries = []
    for number, (kind, second, data) in enumerate(happened):
        event = {
            "specversion": "1.0",
            "id": f"e{0 if number == same_id else number}",
            "source": "//tests",
            "type": f"job.{kind}",
            "subject": "j",
            "time": at(second).isoformat(),
            "data": data,
        }
        job, verdict = fold(job, ev.decode(msgspec.json.encode(event)), Place(3, 10 + number, 0))
        state = read_trail(kept_trail(job))[-1].state
        entries.append(
            HistoryEntry(f"job.{kind}", at(second), verdict, state, 3, 10 + number, event)
        )
    return entries


CREATED = ("created", 0, {"jobType": "etl", "owner": "alice", "bulkId": "b-1"})


def test_a_life_is_told_in_words_and_spans() -> None:
    explanation = explain_history(
        history(
            CREATED,
            ("active", 10, {"worker": "w1"}),
            ("progress", 15, {"progress": 0.4, "message": "halfway"}),
            ("retry", 20, {"error": {"m": "no"}}),
            ("active", 50, {}),
            ("completed", 60, {"output": [1]}),
        ),
        at(1000),
    )
    assert [told.words for told in explanation.events] == [
        "created as etl of alice, of bulk b-1",
        "taken up by w1",
        "40% done: halfway",
        'the attempt failed: {"m":"no"}, another is due',
        "taken up",
        "completed with [1]",
    ]
    assert [told.attempt for told in explanation.events] == [0, 0, 0, 0, 1, 1]
    assert [(told.partition, told.offset) for told in explanation.events] == [
        (3, 10 + number) for number in range(6)
    ]
    assert explanation.spans == [
        StateSpan(State.CREATED, 0, at(0), at(10), 10.0),
        StateSpan(State.ACTIVE, 0, at(10), at(20), 10.0),
        StateSpan(State.RETRY, 0, at(20), at(50), 30.0),
        StateSpan(State.ACTIVE, 1, at(50), at(60), 10.0),
        StateSpan(State.COMPLETED, 1, at(60), None, 0.0),
    ]
    assert explanation.by_state() == {"created": 10, "active": 20, "retry": 30, "completed": 0}


@pytest.mark.parametrize(
    ("happened", "why"),
    [
        (
            [("active", 1, {"attempt": 2}), ("completed", 2, {"attempt": 0})],
            "its attempt 0 is before the job's 2",
        ),
        (
            [("completed", 1, {}), ("active", 2, {"attempt": 5})],
            "the table has no transition from completed to active",
        ),
        (
            [("failed", 1, {}), ("active", 2, {})],
            "from failed to active takes an attempt above 0",
        ),
        ([("cancelled", 1, {}), ("progress", 2, {})], "the job has ended as cancelled"),
    ],
)
def test_what_did_not_count_says_why(happened: list[Any], why: str) -> None:
    last = explain_history(history(CREATED, *happened), at(9)).events[-1]
    assert last.verdict is not Verdict.APPLIED
    assert last.words.endswith(f"; ignored: {why}")


def test_a_duplicate_and_a_late_creation_say_so() -> None:
    again = explain_history(history(CREATED, CREATED, same_id=1), at(9)).events[-1]
    assert again.words.endswith("; ignored: the job has seen an event of this id, at 3:10")
    late = explain_history(history(("active", 5, {}), CREATED), at(9)).events[-1]
    assert late.words.endswith("; ignored: it came late, and only adds the job's type and owner")


def test_an_open_span_lasts_until_now_and_none_is_negative() -> None:
    explanation = explain_history(history(CREATED, ("active", -5, {})), at(20))
    assert [(span.state, span.seconds) for span in explanation.spans] == [
        ("created", 0),
        ("active", 25),
    ]
    assert explanation.spans[-1].ended is None


def test_another_attempt_of_an_active_job_is_another_span() -> None:
    explanation = explain_history(
        history(CREATED, ("active", 1, {}), ("active", 4, {"attempt": 1})), at(5)
    )
    assert [(span.state, span.attempt, span.seconds) for span in explanation.spans[1:]] == [
        ("active", 0, 3),
        ("active", 1, 1),
    ]


def test_what_the_log_has_lost_is_told_as_far_as_the_trail_knows() -> None:
    entries = history(CREATED, ("active", 1, {"attempt": 3}), ("completed", 2, {"attempt": 1}))
    first = HistoryEntry(
        *(getattr(entries[0], name) for name in entries[0].__struct_fields__[:-1]), None
    )
    explanation = explain_history([first, *entries[1:]], at(9))
    assert explanation.events[0].words == "the log no longer has the event"
    assert explanation.events[1].attempt is None
    assert explanation.events[2].words.endswith("; ignored: its attempt is over, or it came late")
    assert [span.state for span in explanation.spans] == ["created", "active"]


def printed(*happened: Any, now: float, width: int) -> str:
    """Return what a terminal shows of a job."""
    entries = history(*happened)
    state, end = entries[-1].state, entries[-1].time
    job = Answer("j", state, None, "[b]etl[/]", "alice", None, NOON, None, end, None, 0, None, None,
                 {}, ())  # fmt: skip
    file = io.StringIO()
    show(job, explain_history(entries, at(now)), Screen(file=file, width=width))
    return file.getvalue()


def test_a_terminal_shows_every_event_and_bars_as_long_as_the_times() -> None:
    steps = [("active", 10, {}), ("active", 12, {}), ("retry", 30, {}), ("active", 90, {})]
    text = printed(CREATED, *steps, ("completed", 100, {}), now=999, width=150)
    assert "j: [b]etl[/] of alice, completed" in text
    assert "ignored: from active to active takes an attempt above 0" in text
    bars = {
        line.split("█")[0].strip(): line.count("█") for line in text.splitlines() if "█" in line
    }
    names = ["waiting", "running, attempt 0", "waiting for another attempt", "running, attempt 1"]
    assert list(bars) == names
    whole = sum(bars.values())
    assert whole >= 60
    assert [abs(bars[name] - share * whole) <= 1 for name, share in
            zip(names, (0.1, 0.2, 0.6, 0.1), strict=True)] == [True] * 4  # fmt: skip
    assert "1 min 40 s" in text


def test_many_spans_leave_the_chart_readable() -> None:
    steps: list[Any] = []
    for n in range(40):
        steps += [("active", 2 * n + 1, {}), ("retry", 2 * n + 2, {})]
    text = printed(CREATED, *steps, now=100, width=80)
    assert "... 65 more" in text
    assert sum("█" in line for line in text.splitlines()) == 16
    assert "waiting for another attempt, still" in text
    assert max(map(len, text.splitlines())) <= 80


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
