"""Sending without waiting: a job system's hooks must never delay a job."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from jobtrail.core.errors import JobtrailError
from jobtrail.core.events import Event
from jobtrail.processes.runtime import LogRateLimiter
from jobtrail.produce.sync_producer import SyncJobProducer

logger = logging.getLogger(__name__)
for _chatty in ("client", "cluster", "conn", "producer.producer", "producer.sender"):
    logging.getLogger(f"aiokafka.{_chatty}").addFilter(LogRateLimiter(("aiokafka",)))

#: The most events that wait for Kafka, in one process; more are dropped. About 20 MiB.
MAX_WAITING: Final = 10_000
#: Seconds in which dropped events are logged once, for each kind of reason.
_SAID_ONCE_IN: Final = 10.0


class Outbox:
    """Sends events in the background, in bounded memory and time, and never raises.

    It may be made before a fork: events that wait then are sent by the process that added them.

    Args:
        producer: Sends them.
    """

    def __init__(self, producer: SyncJobProducer) -> None:
        self._producer = producer
        # Changed only by atomic operations, without a lock that a fork could copy while it is
        # locked.
        self._waiting: set[concurrent.futures.Future[str]] = set()
        self._pid = os.getpid()
        #: Events dropped in this process.
        self.dropped = 0
        self._said: dict[type[object], float] = {}

    def tell(self, make: Callable[[], Event | None]) -> None:
        """Add an event.

        Args:
            make: Makes it; None where there is no event. An exception is logged.
        """
        try:
            self._own()
            event = make()
            if event is None:
                return
            if len(self._waiting) >= MAX_WAITING:
                self._drop(event.subject, f"{MAX_WAITING} events wait for Kafka already")
                return
            future = self._producer.submit(event)
        except Exception as error:
            self._drop("?", error)
            return
        self._waiting.add(future)
        job_id = event.subject
        future.add_done_callback(lambda done: self._done(job_id, done))

    def flush(self, within: float) -> bool:
        """Wait until no event waits for Kafka any more.

        Args:
            within: Timeout in seconds.

        Returns:
            Whether every event was sent or dropped in that time.
        """
        self._own()
        return not concurrent.futures.wait(list(self._waiting), within).not_done

    def _own(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._waiting, self.dropped = os.getpid(), set(), 0

    def _done(self, job_id: str, sent: concurrent.futures.Future[str]) -> None:
        self._waiting.discard(sent)
        if sent.cancelled():
            self._drop(job_id, "the producer was closed")
        elif (error := sent.exception()) is not None:
            self._drop(job_id, error)

    def _drop(self, job_id: str, why: object) -> None:
        self.dropped += 1
        now = time.monotonic()
        if now - self._said.get(type(why), -_SAID_ONCE_IN) < _SAID_ONCE_IN:
            return
        self._said[type(why)] = now
        # A bug is logged with its trace; Kafka's errors explain themselves.
        unforeseen = isinstance(why, Exception) and not isinstance(why, JobtrailError)
        logger.warning(
            "action=event_dropped job=%s dropped=%d why=%s",
            job_id,
            self.dropped,
            why,
            exc_info=why if unforeseen and isinstance(why, Exception) else None,
        )
