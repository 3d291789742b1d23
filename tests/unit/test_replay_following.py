"""Following a log: events are chosen by what their jobs are once each is taken in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jobtrail.core.fold import fold
from jobtrail.core.job import Job
from jobtrail.replay import Filters, Replay
from jobtrail.replay.following import Following
from tests.growing_dying import PARTITIONS, JobLog

Place = tuple[int, int]
FILTERS = [
    Filters(),
    Filters(users=("u1",)),
    Filters(users=("u9", "u0")),
    Filters(job_types=("t1",)),
    Filters(bulk_ids=('b,"1',)),
    Filters(job_ids=("j1", "j5", "j8")),
    Filters(job_ids=("j1", "j5", "j8"), users=("u9",)),
    Filters(states=("failed", "active")),
    Filters(tags={"stage": "two"}),
    Filters(users=("u9",), states=("failed",), tags={"stage": "two"}),
]


def model(filters: Filters, since: dict[int, int]) -> list[Place]:
    """Fold the whole log event by event; return the places of those that are wanted."""
    jobs: dict[str, Job] = {}
    found = []
    with Replay(JobLog()) as replay:
        for place, event in replay.events():
            job, _ = fold(jobs.get(event.subject), event, place)
            jobs[event.subject] = job
            if _wanted(filters, job) and place.offset >= since.get(place.partition, 0):
                found.append((place.partition, place.offset))
    return sorted(found)


def _wanted(filters: Filters, job: Job) -> bool:
    asked: list[tuple[Any, Any]] = [
        (filters.users, job.owner),
        (filters.job_types, job.job_type),
        (filters.bulk_ids, job.bulk_id),
        (filters.job_ids, job.id),
        (filters.states, job.state),
    ]
    told = all(value in some for some, value in asked if some)
    return told and all(job.tags.get(name) == value for name, value in filters.tags.items())


def places(following: Following) -> Iterator[Place]:
    for batch in following.new():
        columns = (batch.column(name).to_pylist() for name in ("partition", "offset"))
        yield from zip(*columns, strict=True)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("begin", [0, 1, 12])
def test_events_are_those_of_jobs_that_are_so_then(filters: Filters, begin: int) -> None:
    log = JobLog()
    since = dict.fromkeys(range(PARTITIONS), begin)
    found: list[Place] = []
    log.limit(0.4)
    with Replay(log) as replay, Following(replay, filters, since) as following:
        for share in (0.4, 0.7, 1.0):
            log.limit(share)
            replay.refresh()
            found += places(following)
        assert following.position == replay.ends
    wanted = model(filters, since)
    assert sorted(found) == wanted
    assert wanted


def test_what_goes_on_elsewhere_has_no_gap_and_no_repeat() -> None:
    filters = Filters(users=("u9", "u1"), tags={"stage": "two"})
    found: list[Place] = []
    position: dict[int, int] | None = None
    for share in (0.2, 0.5, 0.8, 1.0):
        log = JobLog()
        log.limit(share)
        with Replay(log) as replay, Following(replay, filters, position) as following:
            for batch in following.new():
                columns = (batch.column(name).to_pylist() for name in ("partition", "offset"))
                found += zip(*columns, strict=True)
                if len(found) % 2:
                    break
            position = following.position
    with Replay(JobLog()) as replay, Following(replay, filters, position) as following:
        found += places(following)
    assert sorted(found) == model(filters, {})


def test_it_ends_where_somebody_wants_it_to() -> None:
    ended = threading.Event()
    with Replay(JobLog()) as replay, Following(replay, Filters(), ended=ended) as following:
        next(following.new())
        before = dict(following.position)
        ended.set()
        assert list(following.new()) == []
        assert following.position == before
        assert sum(before.values()) < sum(replay.ends.values())
    assert len(before) == PARTITIONS
