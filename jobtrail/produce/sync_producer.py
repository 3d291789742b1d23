"""`SyncJobProducer`: the producer's synchronous interface, for scripts, Django and Celery.

```python
with SyncJobProducer("//billing/worker-7") as producer:
    with producer.job("nightly", owner="alice") as job:
        job.progress(0.4)
        job.output = {"rows": 41}
```
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from jobtrail.core.events import Event
from jobtrail.processes.loop_thread import SyncFacade, blocking
from jobtrail.produce.event_factory import EventMaker
from jobtrail.produce.job_producer import WITHIN, JobProducer, RunningJob
from jobtrail.settings import Settings


class SyncJobProducer(SyncFacade[JobProducer]):
    """Sends job events from code that is not asynchronous; thread-safe.

    The methods are those of `JobProducer`, with the same arguments; each blocks until Kafka has the
    event. It connects at its first use, and again in a forked process, so it may be made at module
    level. Use it as a context manager, or `close` it at the end.

    Args:
        source: The sender, as a CloudEvents source: `//billing/worker-7`.
        bootstrap_servers: Kafka, `host:port[,host:port]`. None: `JOBTRAIL_BOOTSTRAP_SERVERS`, else
            the service that runs on this machine.
        settings: Everything else about Kafka; None for the environment's.
        within: Seconds in which an event is acknowledged or given up.
    """

    def __init__(
        self,
        source: str,
        *,
        bootstrap_servers: str | None = None,
        settings: Settings | None = None,
        within: float = WITHIN,
    ) -> None:
        super().__init__("jobtrail-producer")
        self._make = functools.partial(
            JobProducer,
            source,
            bootstrap_servers=bootstrap_servers,
            settings=settings,
            within=within,
        )
        self._producer: JobProducer | None = None
        self._starting = threading.Lock()
        #: Makes events without sending them, for `send` and `send_all`.
        self.events = EventMaker(source)

    created = blocking(JobProducer.created)
    active = blocking(JobProducer.active)
    progress = blocking(JobProducer.progress)
    retry = blocking(JobProducer.retry)
    completed = blocking(JobProducer.completed)
    failed = blocking(JobProducer.failed)
    cancelled = blocking(JobProducer.cancelled)
    expired = blocking(JobProducer.expired)
    send = blocking(JobProducer.send)
    send_all = blocking(JobProducer.send_all)

    def submit(self, event: Event) -> concurrent.futures.Future[str]:
        """Queue one event without waiting, not even for a connection.

        Events that are submitted by one thread are in the log in that order.

        Args:
            event: From `events`, or built by the caller.

        Returns:
            The position after it, once Kafka has it. It fails as `send` does.

        Raises:
            NotRunning: No Kafka is named, and no service runs on this machine.
        """
        producer = self._started(connect=False)
        return self._thread.submit(producer.send_in_turn(event))

    def job(
        self,
        job_type: str,
        *,
        owner: str,
        job_id: str | None = None,
        bulk_id: str | None = None,
        viewers: Iterable[str] = (),
        worker: str | None = None,
    ) -> SyncRunningJob:
        """Return a job that is run as the body of a `with`; see `JobProducer.job`."""
        running = self._started().job(
            job_type,
            owner=owner,
            job_id=job_id,
            bulk_id=bulk_id,
            viewers=viewers,
            worker=worker,
        )
        return SyncRunningJob(self, running)

    def close(self) -> None:
        """Disconnect; another event connects again."""
        with self._starting:
            if self._thread.is_running and self._producer is not None:
                self._thread.run(self._producer.__aexit__(None, None, None))
                self._thread.stop()
            self._producer = None

    def __enter__(self) -> Self:
        """Connect, if Kafka is there; else the first event waits for it."""
        self._started()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self.close()

    def _inner(self) -> JobProducer:
        return self._started()

    def _started(self, connect: bool = True) -> JobProducer:
        if self._producer is None or not self._thread.is_running:
            with self._starting:
                if self._producer is None or not self._thread.is_running:
                    producer = self._make()
                    self._thread.start()
                    if connect:
                        self._thread.run(producer.__aenter__())
                    self._producer = producer
        return self._producer


class SyncRunningJob:
    """A job whose work is the body of a `with`; see `RunningJob`."""

    def __init__(self, producer: SyncJobProducer, running: RunningJob) -> None:
        self._producer = producer
        self._running = running
        self.id = running.id

    @property
    def output(self) -> Any:
        """The job's result, as JSON: set it before the body ends."""
        return self._running.output

    @output.setter
    def output(self, output: Any) -> None:
        self._running.output = output

    def progress(self, progress: float | None = None, message: str | None = None) -> str:
        """Report the job's progress, 0 to 1; return the position."""
        return self._producer._run(lambda _: self._running.progress(progress, message))

    def __enter__(self) -> Self:
        """Send `job.created` and `job.active`."""
        self._producer._run(lambda _: self._running.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send how the job ended."""
        self._producer._run(lambda _: self._running.__aexit__(kind, error, trace))
