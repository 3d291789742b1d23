"""What changed between two times or places, against two folds of the log that know no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobtrail.core.errors import UsageError
from jobtrail.core.events import from_microseconds
from jobtrail.core.states import STATES
from jobtrail.replay.diff import CHANGES, Diff, When, diff_tables
from jobtrail.replay.folding.jobs import Keep
from tests.replay_rows import Logged, Row, batch_of, expected, row_of
from tests.unit.test_replay_folding import logs, made_up


def jobs_at(log: list[Logged], when: When) -> dict[str, Row]:
    if isinstance(when, Mapping):
        return expected(log, position=when)[0]
    return expected(log, when)[0]


def told(before: Row | None, after: Row | None) -> Row:
    """Return the row of a job that changed."""
    there = after or before
    assert there is not None
    nothing: Row = {}
    was, becomes = before or nothing, after or nothing
    return {
        **{name: there[name] for name in ("id", "partition", "job_type", "owner", "bulk_id")},
        **{
            f"{name}_{side}": row.get(name)
            for name in ("state", "attempt", "progress", "updated_at")
            for side, row in (("before", was), ("after", becomes))
        },
        "events": becomes.get("events", 0) - was.get("events", 0),
    }


def content(job: Row | None) -> Row | None:
    """Return what an event that is not applied does not change."""
    return job and {name: v for name, v in job.items() if name not in ("events", "ignored")}


def check(found: Diff, before: dict[str, Row], after: dict[str, Row]) -> int:
    """Compare a difference with the jobs of both sides; return how many changed."""
    changed = {
        name: told(before.get(name), after.get(name))
        for name in before.keys() | after.keys()
        # A job that is told again what it was changes all the same: an event was applied.
        if content(before.get(name)) != content(after.get(name))
        or applied(before[name]) != applied(after[name])
    }
    table = found.jobs.to_arrow()
    assert table.schema == CHANGES
    assert {row["id"]: row for row in table.to_pylist()} == changed
    assert table.num_rows == len(changed)
    for side, jobs in (("before", before), ("after", after)):
        counts = Counter((job["job_type"], job["state"]) for job in jobs.values())
        assert (
            +Counter({(c.job_type, s): getattr(c, side)[s] for c in found.counts for s in STATES})
            == +counts
        )
    return len(changed)


def applied(job: Row) -> Any:
    return job["events"] - job["ignored"]


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[Logged], When, When]:
    """Draw a log and two times or places, the later one second where they can be compared."""
    log = draw(logs())
    moments = [from_microseconds(row_of(logged)["time"]) for logged in log]

    def place() -> dict[int, int]:
        read = log[: draw(st.integers(0, len(log)))]
        return {place.partition: place.offset + 1 for place, _ in read}

    kind = draw(st.sampled_from(["instants", "positions", "to the end", "mixed"]))
    if kind == "positions":
        first, second = place(), place()
        ends = {p: max(first.get(p, 0), second.get(p, 0)) for p in first | second}
        return log, first, ends
    instant = draw(st.sampled_from(moments))
    if kind == "instants":
        return log, *sorted((instant, draw(st.sampled_from(moments))))
    return log, instant, None if kind == "to the end" else place()


def in_states(states: set[str]) -> Keep:
    def keep(jobs: pa.RecordBatch) -> pa.BooleanArray:
        return pa.array([state in states for state in jobs.column("state").to_pylist()], pa.bool_())

    return keep


def chosen(
    before: dict[str, Row], after: dict[str, Row], states: set[str]
) -> tuple[dict[str, Row], dict[str, Row]]:
    """Return those jobs that are in these states afterwards, or were before if they are no more."""
    names = {name for name, job in (before | after).items() if job["state"] in states}
    return (
        {name: job for name, job in before.items() if name in names},
        {name: job for name, job in after.items() if name in names},
    )


some_states = st.none() | st.sets(st.sampled_from([str(state) for state in STATES]), min_size=1)


@settings(max_examples=100)
@given(questions(), some_states, st.integers(1, 9))
def test_a_difference_equals_two_folds(
    question: tuple[list[Logged], When, When], states: set[str] | None, size: int
) -> None:
    log, before, after = question
    batches = [batch_of(log[at : at + size]) for at in range(0, len(log), size)]
    found = diff_tables(batches, before, after, keep=in_states(states) if states else None)
    sides = jobs_at(log, before), jobs_at(log, after)
    check(found, *(chosen(*sides, states) if states else sides))


def test_a_job_of_which_is_told_later_what_it_is_has_changed() -> None:
    log = made_up(1)
    created, active = log[0], log[1]
    late = [
        active,
        Logged(msgspec.structs.replace(active.place, offset=9), created.event),
    ]
    found = diff_tables([batch_of(late)], {0: 9})
    assert check(found, jobs_at(late, {0: 9}), jobs_at(late, None)) == 1
    (row,) = found.jobs.to_arrow().to_pylist()
    assert (row["state_before"], row["state_after"], row["owner"]) == ("active", "active", "u0")


def test_a_log_larger_than_the_memory_gives_the_same() -> None:
    log = made_up(3_000)
    batches = [batch_of(log[at : at + 700]) for at in range(0, len(log), 700)]
    position = {p: len(log) // 3 for p in range(3)}
    found = diff_tables(batches, position, memory_mib=1)
    assert check(found, jobs_at(log, position), jobs_at(log, None)) > 1_000


def test_a_difference_goes_forward() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for before, after in (
        (now, now - timedelta(microseconds=1)),
        ({0: 2, 1: 0}, {0: 1, 1: 5}),
        ({0: 2, 1: 1}, {0: 2}),
        (None, now),
    ):
        with pytest.raises(UsageError, match="goes forward"):
            diff_tables([], before, after)
    assert len(diff_tables([], now, now).jobs) == 0
