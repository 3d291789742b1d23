"""Reads states of jobs at the log's end; of many jobs a few at a time.

The tail's records are folded onto the projections in the same step of the event loop, so that this
can't be a long read in the thread. Other requests are served between the steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from jobtrail.core.partitions import partition_of
from jobtrail.core.position import holds
from projections.ports.meter import TooLong
from projections.ports.read import Caller, Watermark
from services.api.http.answers import status_answer, stored_status
from services.api.problems.problems import behind
from services.api.routes.reach import read_until_certain
from services.api.service import Service
from services.api.store import is_recovering

#: Jobs that are read in one step: some 10 us each.
AT_ONCE: Final = 100

Status = dict[str, Any]


_NOWHERE: Final[Mapping[int, int]] = {}


class States(NamedTuple):
    """The states of some jobs."""

    #: By id of the job; None for a job that the caller may no longer see.
    by_id: dict[str, Status | None]
    #: Of the projections.
    watermark: Watermark
    #: The same, with the tail's records.
    fresh: Watermark


def states_at_end(service: Service, caller: Caller, ids: Sequence[str]) -> States:
    """Read the states of a few jobs.

    Raises:
        TooManyNewEvents: They have more events beyond the projections than are folded in one step.
        Problem: 503 where their partitions are recovering.
        TooLong: Their outputs are too large.
    """
    with service.store.snapshot(allow_recovering=True) as snapshot:
        partitions = service.store.partitions
        watermark = snapshot.watermark
        check_whole(watermark, ids, partitions)
        with snapshot.meter:
            found = snapshot.states(caller, ids)
        by_id: dict[str, Status | None] = {status[0]: stored_status(*status) for status in found}
        newer = service.overlay.newer(snapshot, caller, ids, partitions)
    for job_id, job in newer.items():
        by_id[job_id] = None if job is None else status_answer(job)
    return States(by_id, watermark, service.freshness.with_tail(watermark))


async def many_states(
    service: Service, caller: Caller, ids: Sequence[str], position: Mapping[int, int] = _NOWHERE
) -> AsyncIterator[tuple[Sequence[str], States]]:
    """Yield the states of any number of jobs, with the ids of each step.

    Args:
        service: The service.
        caller: Who asks.
        ids: Of the jobs.
        position: The position in the headers of the answer, which each step must have reached.

    Raises:
        Problem: As above; 503 where more events than one step folds are not folded in time, or the
            tail has lost events since: the answer would be older than its headers say.
    """
    at, size = 0, AT_ONCE
    while at < len(ids):
        some = ids[at : at + size]
        try:
            found = await read_until_certain(
                service, caller.user, partial(_settled, service, caller, some)
            )
        except TooLong:
            if size == 1:
                raise
            size = max(1, size // 4)
            continue
        if not holds(found.fresh.position, position):
            raise behind("The live tail has lost events while the answer was made. Ask again.")
        position = found.fresh.position
        yield some, found
        at += len(some)
        await service.turns.pause(caller.user)


def _settled(service: Service, caller: Caller, ids: Sequence[str]) -> tuple[States, None]:
    return states_at_end(service, caller, ids), None


def check_whole(watermark: Watermark, ids: Sequence[str], partitions: int) -> None:
    """Refuse to answer for jobs whose partitions are recovering.

    Raises:
        Problem: 503.
    """
    if watermark.recovering and not watermark.recovering.isdisjoint(
        partition_of(job_id, partitions) for job_id in ids
    ):
        raise is_recovering(watermark)
