"""A stream of synthetic jobs, for a first look at the service."""

from __future__ import annotations

import asyncio
import heapq
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Raw

from jobtrail.core import events as ev
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings

_OWNERS: Final = ("alice", "bob", "carol", "dave")
_TYPES: Final = ("bulkPolicy", "export", "schemaDetection", "healthCheck")
_EVERY: Final = 0.5

#: (seconds from now, type, data)
Step = tuple[float, type[ev.Event], Any]


async def run_demo(settings: Settings) -> None:
    """Write a synthetic job twice a second, and its later events when they are due, for ever.

    Args:
        settings: Which Kafka, which topic.
    """
    chance = random.Random()  # noqa: S311
    due: list[tuple[float, int, ev.Event]] = []
    number = 0
    clock = asyncio.get_running_loop().time
    async with LogWriter(settings) as writer:
        while True:
            job_id = str(uuid.uuid4())
            for after, event_type, data in life(chance):
                number += 1
                heapq.heappush(due, (clock() + after, number, _event(event_type, job_id, data)))
            while due and due[0][0] <= clock():
                event = heapq.heappop(due)[2]
                event.time = datetime.now(UTC)
                await writer.append(job_id=event.subject, value=ev.encode(event))
            await asyncio.sleep(_EVERY)


def life(chance: random.Random) -> Iterator[Step]:
    """Generate a job's events and when each is due.

    Args:
        chance: The random number generator.
    """
    at = 0.0
    owner = chance.choice(_OWNERS)
    viewers = ("group:stewards",) if chance.random() < 0.3 else ()
    yield (
        at,
        ev.Created,
        ev.CreatedData(
            job_type=chance.choice(_TYPES),
            owner=owner,
            bulk_id=f"demo-{chance.randrange(20)}",
            viewers=viewers,
            tags={"tenant": chance.choice(("acme", "globex"))},
        ),
    )
    at += chance.expovariate(1)
    yield at, ev.Active, ev.ActiveData(worker=f"worker-{chance.randrange(4)}")
    if chance.random() < 0.15:
        at += chance.expovariate(0.5)
        yield at, ev.Retry, ev.RetryData(error=Raw(b'{"message":"timed out"}'))
        at += chance.expovariate(0.5)
        yield at, ev.Active, ev.ActiveData(worker=f"worker-{chance.randrange(4)}")
    for step in range(1, 4):
        at += chance.expovariate(1)
        yield at, ev.Progress, ev.ProgressData(progress=step / 4)
    at += chance.expovariate(1)
    outcome = chance.random()
    if outcome < 0.85:
        yield at, ev.Completed, ev.CompletedData(output=Raw(b'{"rows":%d}' % int(at * 1000)))
    elif outcome < 0.95:
        yield at, ev.Failed, ev.FailedData(error=Raw(b'{"message":"no such table"}'))
    else:
        yield at, ev.Cancelled, ev.ReasonData(reason="not needed any more")


def _event(event_type: type[ev.Event], job_id: str, data: Any) -> ev.Event:
    return event_type(
        specversion="1.0",
        id=str(uuid.uuid4()),
        source="//jobtrail/demo",
        subject=job_id,
        data=data,
    )
