"""The watchdog: checks log, store and progress from time to time, and writes the heartbeat.

A projector that is alive but makes no progress ends itself, to be started again. Consumers that
stop consuming after an outage or a rebalance are the most reported fault of the stack below (faust
#175, #523, #532, #594, #629, #640; aiokafka #1037, #1154).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiokafka.errors import KafkaError

from jobtrail.core.errors import LogChanged, StoreError
from jobtrail.log.questions import Log
from projections.ports.write import Checkpoint
from projections.projector.projector import Projector

logger = logging.getLogger(__name__)

#: Seconds between two checks and heartbeats. A log that was replaced is noticed within this time
#: even if no connection broke.
EVERY: Final = 5.0


async def care(
    projector: Projector,
    assigned: Callable[[], set[int]],
    fetch_again: Callable[[], Awaitable[None]],
) -> str:
    """Check store and log, and write the heartbeat, every `EVERY` seconds.

    Args:
        projector: The projector whose partitions are checked.
        assigned: Returns the partitions that are assigned to it.
        fetch_again: Has records delivered again from the checkpoints on.

    Returns:
        Why the projector can't go on.
    """
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(projector.assigned.wait(), EVERY)
    while True:
        mine = assigned()
        try:
            # In this order: a damaged shard can't be read.
            await projector.repair()
            await projector.look(mine)
        except LogChanged as error:
            return str(error)
        except (KafkaError, TimeoutError) as error:
            logger.warning("action=look_failed %r", error)
        except StoreError as error:
            logger.error("action=look_failed %s", error)
        try:
            await projector.beat(mine)
        except StoreError as error:
            logger.error("action=beat_failed %s", error)
        if projector.wants_records_again:
            await fetch_again()
        await asyncio.sleep(EVERY)


async def watch(
    log: Log, projector: Projector, assigned: Callable[[], set[int]], stalled_after: float
) -> str:
    """Return, with the reason, when a partition is stuck.

    Args:
        log: Returns the log's ends.
        projector: Returns the store's checkpoints.
        assigned: Returns the partitions of this worker; where there are none, all are watched.
        stalled_after: Seconds without progress, with records to apply, that count as stuck.
    """
    progress = _Progress(stalled_after)
    while True:
        await asyncio.sleep(min(EVERY, stalled_after / 4))
        try:
            # Before the ends: what is appended in between does not count as lag.
            checkpoints = await projector.checkpoints()
            ends = await log.ends()
        except (KafkaError, TimeoutError) as error:
            # Without the broker there is no progress: count from its return.
            logger.warning("action=watchdog_no_log %r", error)
            progress.forget()
            continue
        except StoreError as error:
            logger.warning("action=watchdog_no_store %s", error)
            continue
        going_on = {p: at for p, at in checkpoints.items() if p not in projector.stopped}
        if reason := progress.stuck(going_on, ends, assigned() or set(ends)):
            return reason


class _Progress:
    """Since when each partition has made no progress, though there are records to apply."""

    def __init__(self, stalled_after: float) -> None:
        self._stalled_after = stalled_after
        self._moved: dict[int, tuple[int, float]] = {}

    def forget(self) -> None:
        self._moved.clear()

    def stuck(
        self, checkpoints: Mapping[int, Checkpoint], ends: Mapping[int, int], watched: set[int]
    ) -> str | None:
        """Return why a partition counts as stuck; None where none does."""
        now = asyncio.get_running_loop().time()
        for partition, checkpoint in checkpoints.items():
            at, since = self._moved.get(partition, (-1, now))
            is_lagging = checkpoint.next_offset < ends.get(partition, 0)
            if at != checkpoint.next_offset or not is_lagging or partition not in watched:
                self._moved[partition] = (checkpoint.next_offset, now)
            elif now - since > self._stalled_after:
                return (
                    f"partition {partition} stays at offset {at}, the log ends at "
                    f"{ends[partition]}, nothing was applied for {now - since:.0f} s"
                )
        return None
