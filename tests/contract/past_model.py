"""What was true at an instant or a position of a log: the pure fold over each job's prefix.

Written from the definition: no trail is read, no change derived, every cut folded from the start.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobtrail.core.asof import Cut, fold_again
from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError
from jobtrail.core.events import microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.trail import Verdict
from projections.ports.read import Caller, Cursor, Filters, Snapshot
from tests.contract.store_model import Model
from tests.contract.store_streams import Log


def model_at(log: Log, cut: Cut, held: Mapping[int, int] | None = None) -> Model:
    """Return a model whose jobs are those of a cut.

    Args:
        log: The whole of it.
        cut: Up to where it counts.
        held: The offsets up to which it was there to be seen; None for its end.
    """
    model = Model(log)
    if cut.instant is None:
        ends = log.ends()
        return model.advance(
            {p: min(max(cut.position.get(p, 0), log.first), ends[p]) for p in log.records}
        )
    whole: dict[str, Job] = {}
    over: set[str] = set()
    for partition, records in log.records.items():
        for record in records:
            if held is not None and record.offset >= held[partition]:
                break
            try:
                event = accept(record.key, record.value, partition, len(log.records))
            except EventError:
                continue
            place = Place(partition, record.offset, record.timestamp * 1000)
            name = event.subject
            after, verdict = fold(whole.get(name), event, place)
            whole[name] = after
            at = place.timestamp if event.time is None else microseconds(event.time)
            if verdict is Verdict.APPLIED and at > cut.instant:
                over.add(name)
            if name not in over:
                model.jobs[name] = after
    return model


def found_at(
    snapshot: Snapshot, log: Log, caller: Caller, filters: Filters, cut: Cut, size: int
) -> list[Job]:
    """Return all that a store finds at a cut, page by page, folding what it says has to be."""
    found: list[Job] = []
    after: Cursor | None = None
    while True:
        looked = snapshot.search_at(caller, filters, cut, size=size, after=after)
        assert len(looked.found) <= size
        for then in looked.found:
            job = then.job
            if job is None:
                bodies = {
                    offset: log.slice(then.partition, offset, offset + 1)[0].value
                    for offset, _time in then.events
                }
                job = fold_again(then.partition, then.events, bodies)
            assert job is not None
            assert then.place == (job.created_at, job.id)
            if filters.tags and not filters.match(job):
                assert then.job is None
                continue
            found.append(job)
        if looked.reached is None:
            return found
        assert after is None or (-after.created_at, after.id) < (
            -looked.reached.created_at,
            looked.reached.id,
        )
        after = looked.reached
