"""Both tables of replay against the pure fold, for histories of every kind."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobtrail.core.events import decode, from_microseconds
from jobtrail.core.job import Place
from jobtrail.replay.folding.jobs import Folded, fold_tables
from jobtrail.replay.schemas import EVENTS, JOBS, TRANSITIONS
from tests.replay_rows import Logged, batch_of, expected, row_of
from tests.unit.test_fold_properties import Body, attempts, bodies, bodies_of, times, wire

JOB_NAMES = ("a", "b", "c", "é")
#: What a job that goes through all that was planned may look like; each is drawn now and then.
LIVES = (
    "created active completed",
    "created active progress progress completed",
    "created active retry active failed",
    "active progress cancelled",
    "progress active expired",
    "created failed retry active completed",
    "retry active retry active",
    "created cancelled",
)
CLOCK = 1_780_000_000_000_000


@st.composite
def lives(draw: st.DrawFn) -> list[Body]:
    """Draw the events of a job most of which are applied."""
    kinds = [f"job.{kind}" for kind in draw(st.sampled_from(LIVES)).split()]
    events = [draw(bodies_of(kind)) for kind in kinds]
    for event in events:
        event["data"].pop("attempt", None)
        if draw(st.integers(0, 5)):
            event["data"].pop("tags", None)
    if draw(st.booleans()):
        named = draw(st.lists(attempts, min_size=len(events), max_size=len(events)))
        in_order = draw(st.booleans())
        for event, attempt in zip(events, sorted(named) if in_order else named, strict=True):
            if draw(st.booleans()):
                event["data"]["attempt"] = attempt
    return events


@st.composite
def histories(draw: st.DrawFn) -> list[Body]:
    """Draw a job's events: planned, disturbed, or of any kind."""
    events = draw(lives() | lives() | st.lists(bodies, min_size=1, max_size=8))
    events = [{**event, "id": f"e{number}"} for number, event in enumerate(events)]
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(events)))
        again = draw(st.sampled_from(events))
        other = {**draw(bodies), "id": draw(st.sampled_from([again["id"], f"new{at}"]))}
        events.insert(at, draw(st.sampled_from([again, other])))
    return events


@st.composite
def logs(draw: st.DrawFn) -> list[Logged]:
    """Draw a log of a few jobs in three partitions, in the order in which it is read."""
    waiting = [
        [{**event, "subject": name} for event in draw(histories())]
        for name in JOB_NAMES[: draw(st.integers(1, len(JOB_NAMES)))]
    ]
    offsets: Counter[int] = Counter()
    log = []
    while waiting:
        number = draw(st.integers(0, len(waiting) - 1))
        event = waiting[number].pop(0)
        partition = JOB_NAMES.index(event["subject"]) % 3
        # Between two events there may be records that are none.
        offsets[partition] += draw(st.sampled_from([1, 1, 2]))
        place = Place(partition, offsets[partition], CLOCK + 1000 * len(log))
        log.append(Logged(place, decode(wire(event))))
        waiting = [events for events in waiting if events]
    return log


instants = times.map(datetime.fromisoformat) | st.just(from_microseconds(CLOCK + 3000))


@st.composite
def asked(draw: st.DrawFn) -> tuple[list[Logged], datetime | None]:
    """Draw a log and an instant: none, any, or one that is about an event's."""
    log = draw(logs())
    event_times = [from_microseconds(row_of(logged)["time"]) for logged in log]
    about = st.builds(
        lambda time, more: time + timedelta(microseconds=more),
        st.sampled_from(event_times),
        st.sampled_from([-1, 0, 0, 1]),
    )
    return log, draw(st.none() | about | about | instants)


def rows(folded: Folded) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what was found as the model tells it."""
    jobs, moves = folded.jobs.to_arrow(), folded.transitions.to_arrow()
    assert (jobs.schema, moves.schema) == (JOBS, TRANSITIONS)
    assert (jobs.num_rows, moves.num_rows) == (len(folded.jobs), len(folded.transitions))
    by_job: dict[str, Any] = {row["id"]: [] for row in jobs.to_pylist()}
    assert len(by_job) == jobs.num_rows
    for move in moves.to_pylist():
        by_job[move["job_id"]].append(move)
    return {row["id"]: row for row in jobs.to_pylist()}, by_job


def test_both_ways_of_folding_equal_the_pure_fold() -> None:
    ways: Counter[str] = Counter()

    @settings(max_examples=200)
    @given(asked(), st.integers(1, 9))
    def check(question: tuple[list[Logged], datetime | None], size: int) -> None:
        log, when = question
        batches = [batch_of(log[at : at + size]) for at in range(0, len(log), size)]
        with fold_tables(batches, when) as folded:
            assert rows(folded) == expected(log, when)
            assert folded.events == len(log)
            ways["in columns"] += folded.events > folded.one_by_one
            ways["event by event"] += folded.one_by_one > 0

    check()
    assert min(ways["in columns"], ways["event by event"]) > 200 // 5, ways


def made_up(jobs: int) -> list[Logged]:
    """Return a log in which every seventh job has an event twice."""
    steps: list[list[Logged]] = [[] for _ in range(6)]
    for number in range(jobs):
        name, partition = f"job-{number * 7919 % jobs:06}", number % 3
        kinds = LIVES[number % len(LIVES)].split()
        for step, kind in enumerate([*kinds, *kinds[-1:]] if number % 7 == 0 else kinds):
            data: Body = {"jobType": "t", "owner": f"u{number % 50}"} if kind == "created" else {}
            event = {
                "specversion": "1.0",
                "id": f"{name}-{min(step, len(kinds) - 1)}",
                "source": "//s",
                "type": f"job.{kind}",
                "subject": name,
                "data": {**data, "tags": {"text": "x" * 200}} if step == 0 else data,
            }
            steps[step].append(Logged(Place(partition, 0, 0), decode(wire(event))))
    # All jobs begin, then all go on: no job's events stand together.
    return [
        Logged(Place(place.partition, offset, CLOCK + offset), event)
        for offset, (place, event) in enumerate(chain.from_iterable(steps))
    ]


@pytest.mark.parametrize("memory_mib", [1, 256])
def test_a_log_larger_than_the_memory_gives_the_same(memory_mib: int) -> None:
    log = made_up(6_000)
    batches = [batch_of(log[at : at + 700]) for at in range(0, len(log), 700)]
    assert sum(batch.nbytes for batch in batches) > 3 * 2**20
    when = from_microseconds(CLOCK + len(log) // 2)
    with fold_tables(batches, when, memory_mib=memory_mib) as folded:
        assert rows(folded) == expected(log, when)
        assert 0 < folded.one_by_one < folded.events


def test_jobs_are_chosen_by_what_they_are_at_the_instant() -> None:
    log = made_up(200)
    when = from_microseconds(CLOCK + len(log) // 2)

    def active(jobs: pa.RecordBatch) -> pa.BooleanArray:
        return pa.array([state == "active" for state in jobs.column("state").to_pylist()])

    jobs, moves = expected(log, when)
    wanted = {name for name, job in jobs.items() if job["state"] == "active"}
    assert 0 < len(wanted) < len(jobs)
    with fold_tables([batch_of(log)], when, keep=active) as folded:
        assert rows(folded) == (
            {name: jobs[name] for name in wanted},
            {name: moves[name] for name in wanted},
        )


@pytest.mark.parametrize("again", [False, True], ids=["in columns", "event by event"])
def test_an_attempt_beyond_what_an_event_can_name_is_told_as_the_last(again: bool) -> None:
    events = [
        {**body, "specversion": "1.0", "source": "//s", "subject": "a", "id": body["type"]}
        for body in (
            {"type": "job.retry", "data": {"attempt": 2**31 - 1}},
            {"type": "job.active", "data": {}},
        )
    ]
    events += events[:1] if again else []
    log = [Logged(Place(0, n, CLOCK), decode(wire(event))) for n, event in enumerate(events)]
    assert expected(log)[0]["a"]["attempt"] == 2**31
    with fold_tables([batch_of(log)]) as folded:
        assert folded.one_by_one == (3 if again else 0)
        assert folded.jobs.to_arrow()["attempt"].to_pylist() == [2**31 - 1]
        assert folded.transitions.to_arrow()["attempt"].to_pylist() == [2**31 - 1] * 2


def test_no_events_make_empty_tables() -> None:
    for batches in ([], [pa.RecordBatch.from_pylist([], schema=EVENTS)]):
        with fold_tables(batches, datetime(2026, 1, 1, tzinfo=UTC)) as folded:
            assert rows(folded) == ({}, {})
