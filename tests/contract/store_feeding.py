"""How records get into a store under test: through the real projector, in batches of any size."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

from jobtrail.core.fold import fold
from jobtrail.core.job import Place, Verdict, event_key
from jobtrail.core.trail import Elsewhere
from jobtrail.log.questions import last_record
from projections.ports.write import Batch, Entry, ProjectionWriter, Tally
from projections.projector.continuity import LogLook
from projections.projector.partition_state import DeadLetter
from projections.projector.projector import Projector
from tests.contract.store_streams import PARTITIONS, Log, Record, decoded
from tests.contract.stores import Kit
from tests.groups import MemoryLog, group_of


class Graveyard:
    """Takes dead letters and keeps them."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Take letters."""
        self.letters.extend(letters)


@contextlib.asynccontextmanager
async def projecting(
    writer: ProjectionWriter,
    graveyard: Graveyard | None = None,
    log: LogLook | None = None,
) -> AsyncIterator[Projector]:
    """Run a projector on a store; without a log, whatever it is handed is the log's."""
    look = log or MemoryLog({partition: [] for partition in range(PARTITIONS)}, trusted=True)
    projector = Projector(writer, look, PARTITIONS, (graveyard or Graveyard()).bury)
    try:
        yield projector
    finally:
        projector.close()


async def feed(
    projector: Projector,
    log: Log,
    rng: random.Random,
    *,
    most: int = 40,
    batches: int | None = None,
    again: float = 0.2,
) -> None:
    """Hand the rest of a log to a projector, as Kafka might.

    Args:
        projector: It is asked where to begin, as after an assignment.
        log: Where the records come from.
        rng: Decides whose turn it is and how many records a batch has.
        most: The most records of a batch.
        batches: Stop after so many.
        again: How often a batch begins with records that were delivered before.
    """
    ends = log.ends()
    starts = await projector.start_offsets(set(ends))
    while starts and batches != 0:
        partition = rng.choice(sorted(starts))
        start, end = starts[partition], ends[partition]
        stop = min(end, start + rng.randint(1, most))
        back = rng.randint(0, start - log.first) if rng.random() < again else 0
        if stop > start - back:
            await projector.apply(partition, group_of(log.slice(partition, start - back, stop)))
            batches = None if batches is None else batches - 1
        if stop == end:
            del starts[partition]
        else:
            starts[partition] = stop


async def fill(store: Kit, log: Log, seed: int = 1, **how: Any) -> None:
    """Project the rest of a log into a store by a writer of its own."""
    async with projecting(store.writer()) as projector:
        await feed(projector, log, random.Random(seed), **how)


def batch_of(writer: ProjectionWriter, partition: int, records: Sequence[Record]) -> Batch:
    """Fold records onto what a store holds, into a batch that can be applied to it."""
    events = [(decoded(record), record) for record in records]
    held = writer.load(partition, {event.subject for event, _ in events})
    for entry in held.values():
        if isinstance(entry.job.earlier, Elsewhere):
            keys = {event_key(event.id) for event, _ in events}
            seen = writer.seen(partition, entry, keys)
            entry.job.earlier = entry.job.earlier.told({key: key in seen for key in keys})
    tally = dict.fromkeys((v.replace("-", "_") for v in Verdict), 0)
    for event, record in events:
        entry = held.get(event.subject)
        place = Place(partition, record.offset, record.timestamp * 1000)
        job, verdict = fold(entry.job if entry else None, event, place)
        if entry:
            before, entry.job = entry.job, job
            entry.note(before, place.offset)
        else:
            held[job.id] = Entry(job)
        tally[verdict.replace("-", "_")] += 1
    return Batch(
        partition=partition,
        start=records[0].offset,
        next_offset=records[-1].offset + 1,
        last=last_record(records[-1], 0),
        changes=list(held.values()),
        tally=Tally(**tally),
    )
