"""The watchdog: checks log, store and progress from time to time, and writes the heartbeat.

A projector that is alive but makes no progress ends itself, to be started again. Consumers that
stop consuming after an outage or a rebalance are the most reported fault of the stack below (faust
#175, #523, #532, #594, #629, #640; aiokafka #1037, #1154).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka.errors import KafkaError

from jobtrail.core.errors import LogChanged, StoreError
from jobtrail.log.questions import Log
from projections.projector.projector import Projector
from projections.projector.vitals import Vitals

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
    log: Log, projector: Projector, assigned: Callable[[], set[int]], vitals: Vitals
) -> str:
    """Return, with the reason, when a partition is stuck.

    Args:
        log: Returns the log's ends.
        projector: Returns the store's checkpoints.
        assigned: Returns the partitions of this worker; where there are none, all are watched.
        vitals: Takes in each look at store and log, and has the bound.
    """
    while True:
        if reason := await _stuck(log, projector, assigned, vitals):
            return reason
        await asyncio.sleep(min(EVERY, vitals.progress.stalled_after / 4))


async def _stuck(
    log: Log, projector: Projector, assigned: Callable[[], set[int]], vitals: Vitals
) -> str | None:
    """Look at store and log once; return why a partition counts as stuck, None where none does."""
    try:
        # Before the ends: what is appended in between does not count as lag.
        checkpoints = await projector.checkpoints()
        ends = await log.ends()
    except (KafkaError, TimeoutError) as error:
        # Without the broker there is no progress: count from its return.
        logger.warning("action=watchdog_no_log %r", error)
        vitals.log_answers = False
        vitals.progress.forget()
        return None
    except StoreError as error:
        logger.warning("action=watchdog_no_store %s", error)
        return None
    vitals.log_answers = True
    counted = (assigned() or set(ends)) - projector.stopped.keys()
    vitals.progress.note(checkpoints, ends, counted)
    return vitals.progress.stuck()
