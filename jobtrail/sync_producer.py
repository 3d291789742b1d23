"""`SyncJobProducer`: the producer's synchronous face, for scripts, Django and Celery.

```python
with SyncJobProducer("//billing/worker-7") as producer:
    with producer.job("nightly", owner="alice") as job:
        job.progress(0.4)
        job.output = {"rows": 41}
```
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from jobtrail.blocking import LoopThread
from jobtrail.job_producer import WITHIN, JobProducer, RunningJob
from jobtrail.making import EventMaker
from jobtrail.settings import Settings

_T = TypeVar("_T")
_P = ParamSpec("_P")


def _blocking(
    method: Callable[Concatenate[JobProducer, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[SyncJobProducer, _P], _T]:
    """Return a method of `JobProducer` as one that blocks."""

    @functools.wraps(method)
    def call(self: SyncJobProducer, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(lambda producer: method(producer, *args, **kwargs))

    return call


class SyncJobProducer:
    """Sends job events from code that is not asynchronous; thread-safe.

    The methods are those of `JobProducer`, with the same arguments; each blocks until Kafka has the
    event. It connects at its first use, and anew in a process that was forked since, so it may be
    made where a module is loaded. Use it as a context manager, or `close` it at the end.

    Args:
        source: Who tells it, as CloudEvents has it: `//billing/worker-7`.
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
        self._make = functools.partial(
            JobProducer,
            source,
            bootstrap_servers=bootstrap_servers,
            settings=settings,
            within=within,
        )
        self._thread = LoopThread("jobtrail-producer")
        self._producer: JobProducer | None = None
        self._starting = threading.Lock()
        #: Makes events without sending them, for `send` and `send_all`.
        self.events = EventMaker(source)

    created = _blocking(JobProducer.created)
    active = _blocking(JobProducer.active)
    progress = _blocking(JobProducer.progress)
    retry = _blocking(JobProducer.retry)
    completed = _blocking(JobProducer.completed)
    failed = _blocking(JobProducer.failed)
    cancelled = _blocking(JobProducer.cancelled)
    expired = _blocking(JobProducer.expired)
    send = _blocking(JobProducer.send)
    send_all = _blocking(JobProducer.send_all)

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

    def _run(self, work: Callable[[JobProducer], Coroutine[Any, Any, _T]]) -> _T:
        producer = self._started()
        return self._thread.run(work(producer))

    def _started(self) -> JobProducer:
        if self._producer is None or not self._thread.is_running:
            with self._starting:
                if self._producer is None or not self._thread.is_running:
                    self._thread.start()
                    self._producer = self._thread.run(self._open())
        return self._producer

    async def _open(self) -> JobProducer:
        return await self._make().__aenter__()


class SyncRunningJob:
    """A job whose work is the body of a `with`; see `RunningJob`."""

    def __init__(self, producer: SyncJobProducer, running: RunningJob) -> None:
        self._producer = producer
        self._running = running
        self.id = running.id

    @property
    def output(self) -> Any:
        """What came of the job, as JSON has it: set it before the body ends."""
        return self._running.output

    @output.setter
    def output(self, output: Any) -> None:
        self._running.output = output

    def progress(self, progress: float | None = None, message: str | None = None) -> str:
        """Say how far the job is, 0 to 1; return the position."""
        return self._producer._run(lambda _: self._running.progress(progress, message))

    def __enter__(self) -> Self:
        """Say that the job exists and is under way."""
        self._producer._run(lambda _: self._running.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say how the job ended."""
        self._producer._run(lambda _: self._running.__aexit__(kind, error, trace))
