"""States of jobs at the log's end, of many jobs a few at a time so that others are served between.

What the tail knows beyond the projections is laid over them in the same step of the event loop, so
this can't be read beside it.
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
from services.api.routes.reach import surely
from services.api.service import Service
from services.api.store import is_recovering

#: Jobs that are read in one step: some 10 us each.
AT_ONCE: Final = 100

Status = dict[str, Any]


_NOWHERE: Final[Mapping[int, int]] = {}


class States(NamedTuple):
    """The states of some jobs."""

    #: By their jobs' ids; None for what the caller no longer sees.
    known: dict[str, Status | None]
    #: What the projections held.
    held: Watermark
    #: The same with the tail.
    fresh: Watermark


def states_at_end(service: Service, caller: Caller, ids: Sequence[str]) -> States:
    """Read the states of a few jobs.

    Raises:
        Ahead: They have more events beyond the projections than are folded in one step.
        Problem: 503 where their part of the projections is not there.
        TooLong: They are too large.
    """
    with service.store.snapshot(allow_recovering=True) as snapshot:
        partitions = service.store.partitions
        held = snapshot.watermark
        check_whole(held, ids, partitions)
        with snapshot.meter:
            found = snapshot.states(caller, ids)
        known: dict[str, Status | None] = {status[0]: stored_status(*status) for status in found}
        newer = service.overlay.newer(snapshot, caller, ids, partitions)
    for job_id, job in newer.items():
        known[job_id] = None if job is None else status_answer(job)
    return States(known, held, service.freshness.with_tail(held))


async def many_states(
    service: Service, caller: Caller, ids: Sequence[str], said: Mapping[int, int] = _NOWHERE
) -> AsyncIterator[tuple[Sequence[str], States]]:
    """Yield the states of any number of jobs, with the ids that were asked for.

    Args:
        service: The service.
        caller: Who asks.
        ids: Of the jobs.
        said: The position that the answer is said to have; what is yielded has it too.

    Raises:
        Problem: As above; 503 where more events than one step folds are not folded in time, or the
            tail has lost events meanwhile: the answer would be older than it says.
    """
    at, size = 0, AT_ONCE
    while at < len(ids):
        some = ids[at : at + size]
        try:
            found = await surely(service, caller.user, partial(_settled, service, caller, some))
        except TooLong:
            if size == 1:
                raise
            size = max(1, size // 4)
            continue
        if not holds(found.fresh.position, said):
            raise behind("The live tail has lost events while the answer was made. Ask again.")
        said = found.fresh.position
        yield some, found
        at += len(some)
        await service.turns.pause(caller.user)


def _settled(service: Service, caller: Caller, ids: Sequence[str]) -> tuple[States, None]:
    return states_at_end(service, caller, ids), None


def check_whole(held: Watermark, ids: Sequence[str], partitions: int) -> None:
    """Refuse to answer for jobs whose part of the projections is not there.

    Raises:
        Problem: 503.
    """
    if held.recovering and not held.recovering.isdisjoint(
        partition_of(job_id, partitions) for job_id in ids
    ):
        raise is_recovering(held)
