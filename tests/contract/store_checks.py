"""A store against the pure fold: every row, every counter, every checkpoint."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from jobtrail.core.job import Job
from projections.ports.read import Caller, Filters, Snapshot, job_of
from tests.contract.store_model import Model, plain, whole
from tests.contract.stores import Kit

EVERYBODY: Final = Caller("nobody", reads_all=True)


def check_equal(store: Kit, model: Model) -> None:
    """Assert that a store holds, in every row and counter, what the pure fold says."""
    writer = store.writer()
    for partition, checkpoint in writer.checkpoints().items():
        found = None if checkpoint.last is None else checkpoint.last[:3]
        assert checkpoint.next_offset == model.position[partition], f"partition {partition}"
        assert found == model.last[partition], f"partition {partition}"
    writer.close()
    assert store.tallies() == model.tallies()
    reader = store.reader()
    with reader.snapshot() as snapshot:
        check_snapshot(snapshot, model)
    reader.close()
    check_counters(store, model)


def check_snapshot(snapshot: Snapshot, model: Model) -> None:
    """Assert that a view shows what the pure fold says at the view's own position."""
    assert snapshot.held.position == model.position
    last = {partition: found for partition, found in model.last.items() if found}
    assert {partition: found[:3] for partition, found in snapshot.held.last.items()} == last
    assert snapshot.held.timestamps == {p: last[p][2] if p in last else 0 for p in model.last}
    watched = snapshot.watched([*model.jobs, "unknown"])
    assert watched.keys() == model.jobs.keys()
    for job_id, job in model.jobs.items():
        different = differences(job, with_whole_trail(snapshot, watched[job_id]))
        assert not different, f"{job_id}: (expected, found) {different}"
    everything = listed(snapshot, EVERYBODY, Filters(), size=len(model.jobs) + 1)
    assert plain(everything) == plain(model.listing(EVERYBODY))
    summary = snapshot.summary(EVERYBODY, Filters())
    assert summary == model.summary(EVERYBODY)
    assert sum(map(sum, summary.values())) == len(model.jobs)


def with_whole_trail(snapshot: Snapshot, job: Job) -> Job:
    """Return a job that was read from a snapshot with all of its trail."""
    trail = snapshot.trail(job.id)
    assert trail is not None
    return msgspec.structs.replace(job, trail=b"".join(trail.chunks()), earlier=None)


def listed(snapshot: Snapshot, caller: Caller, filters: Filters, **page: Any) -> list[Job]:
    """Return the jobs of a page, which is what `Snapshot.search` takes."""
    return [job_of(*line) for line in snapshot.search(caller, filters, **page)]


def differences(expected: Job, found: Job) -> dict[str, tuple[object, object]]:
    """Return what is not the same of two jobs."""
    one, other = whole(expected), whole(found)
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def check_counters(store: Kit, model: Model) -> None:
    """Assert that counters are the recount, and everybody's and the totals what they come to."""
    counters = store.counters()
    assert counters == model.counters()
    together: dict[tuple[int, str | None], tuple[int, ...]] = {}
    for audience, buckets in counters.items():
        for bucket, counts in buckets.items() if audience is not None else ():
            before = together.get(bucket, (0,) * len(counts))
            together[bucket] = tuple(a + b for a, b in zip(before, counts, strict=True))
    assert together == counters.get(None, {})
    for _has, kept, counted in store.totals():
        assert kept == counted
