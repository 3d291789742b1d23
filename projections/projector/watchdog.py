"""The watchdog: looks at log, store and progress on a slow beat, and says that the projector lives.

A projector that is alive but does not get on ends itself, to be started again. Consumers that stop
consuming after an outage or a rebalance are the most reported fault of the stack below (faust #175,
#523, #532, #594, #629, #640; aiokafka #1037, #1154).
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

#: Seconds between two beats: also how long the log may be another one before it is noticed where
#: no connection broke.
EVERY: Final = 5.0


async def care(
    projector: Projector,
    assigned: Callable[[], set[int]],
    fetch_again: Callable[[], Awaitable[None]],
) -> str:
    """Look at store and log on every beat, and say that the projector lives.

    Args:
        projector: Whose partitions are looked at.
        assigned: Tells which these are.
        fetch_again: Has records delivered again from the checkpoints on.

    Returns:
        Why the projector can't go on.
    """
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(projector.assigned.wait(), EVERY)
    while True:
        mine = assigned()
        try:
            # In this order: in what is damaged nothing can be looked up.
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
        log: Tells where the log ends.
        projector: Tells how far the store is.
        assigned: Tells which partitions are this worker's; where none are, all are watched.
        vitals: Is told at each look how far the store is, and knows what is too long.
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
        # Before the ends, which others may move.
        checkpoints = await projector.checkpoints()
        ends = await log.ends()
    except (KafkaError, TimeoutError) as error:
        # Without the broker nobody gets on: count from its return.
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
