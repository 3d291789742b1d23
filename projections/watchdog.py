"""The watchdog: a projector that is alive but does not get on ends itself, to be started anew.

Consumers that stop consuming after an outage or a rebalance are the most reported fault of the
stack below (faust #175, #523, #532, #594, #629, #640; aiokafka #1037, #1154).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiokafka.errors import KafkaError

from projections.log import Log
from projections.projector import Projector

logger = logging.getLogger(__name__)

_EVERY: Final = 5.0


async def watch(
    log: Log, projector: Projector, assigned: Callable[[], set[int]], stalled_after: float
) -> str:
    """Return, with the reason, when a partition is stuck, or its log has lost its end.

    Args:
        log: Tells where the log ends.
        projector: Tells how far the store is.
        assigned: Tells which partitions are this worker's; where none are, all are watched.
        stalled_after: Seconds without progress, with something to apply, that are too long.
    """
    clock = asyncio.get_running_loop().time
    moved: dict[int, tuple[int, float]] = {}
    while True:
        await asyncio.sleep(min(_EVERY, stalled_after / 4))
        # Before the ends, which others may move meanwhile.
        checkpoints = await projector.checkpoints()
        try:
            ends = await log.ends()
        except (KafkaError, TimeoutError) as error:
            # Without the broker nobody gets on: count from its return.
            logger.warning("action=watchdog_no_log %r", error)
            moved.clear()
            continue
        now = clock()
        mine = assigned() or set(ends)
        for partition, checkpoint in checkpoints.items():
            if checkpoint.next_offset > ends.get(partition, checkpoint.next_offset):
                # The next start looks into it: the store is folded anew from what is there.
                return (
                    f"partition {partition} is at offset {checkpoint.next_offset}, the log ends "
                    f"at {ends[partition]}: it has lost records"
                )
            at, since = moved.get(partition, (-1, now))
            behind = checkpoint.next_offset < ends.get(partition, 0)
            if at != checkpoint.next_offset or not behind or partition not in mine:
                moved[partition] = (checkpoint.next_offset, now)
            elif now - since > stalled_after:
                return (
                    f"partition {partition} stays at offset {at}, the log ends at "
                    f"{ends[partition]}, nothing was applied for {now - since:.0f} s"
                )
