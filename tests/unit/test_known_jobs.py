"""Jobs that are followed from file: what is known of one is what the fold has of all its events."""

from __future__ import annotations

import contextlib

import pytest

from jobtrail.core.events import Event, decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.trail import CHUNK_ENTRIES
from jobtrail.replay.folding.jobs_at_start import KnownJobs


def event_of(number: int, kind: str = "progress") -> Event:
    return decode(
        b'{"specversion":"1.0","id":"event-%d","source":"//test","type":"job.%b",'
        b'"subject":"hot","time":"2026-11-23T13:%02d:00Z","data":{}}'
        % (number, kind.encode(), number % 60)
    )


@pytest.mark.parametrize("size", [1, 50, CHUNK_ENTRIES, 1_000])
def test_an_event_from_the_beginning_of_a_long_trail_is_known_again(size: int) -> None:
    numbers = [*range(3 * CHUNK_ENTRIES), 0, 70, 200, 150, 200, 201]
    events = [
        # Would end the job, if they had not been there before.
        event_of(n, "progress" if n not in numbers[:at] else "completed")
        for at, n in enumerate(numbers)
    ]
    placed = [(event, Place(0, offset, 0)) for offset, event in enumerate(events)]
    job: Job | None = None
    expected = []
    for event, place in placed:
        job = fold(job, event, place)[0]
        expected.append((job.state, job.updated_at))
    with contextlib.closing(KnownJobs()) as known:
        found = [
            (after.state, after.updated_at)
            for at in range(0, len(placed), size)
            for after in known.take(placed[at : at + size])
        ]
    assert found == expected
