"""`JobProducer`: how a program reports what happens to its jobs, for asyncio.

```python
async with JobProducer("//billing/worker-7") as producer:
    async with producer.job("nightly", owner="alice") as job:
        await job.progress(0.4)
        job.output = {"rows": 41}
```
"""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self

from jobtrail.core.errors import LogUnavailable
from jobtrail.core.events import Event, decode, encode
from jobtrail.core.position import format_position
from jobtrail.local.running import with_log
from jobtrail.produce.delivery import Delivered, Delivery
from jobtrail.produce.event_factory import EventMaker
from jobtrail.produce.tracing import current_trace
from jobtrail.settings import Settings, load

logger = logging.getLogger(__name__)

#: Seconds in which an event is acknowledged or given up.
WITHIN: Final = 8.0
#: Events that are queued before other tasks may run.
_TURN: Final = 256
#: The most characters of an exception's text that go into an event.
_MESSAGE: Final = 4096

_P = ParamSpec("_P")
_HandOver = Callable[[str, bytes], Coroutine[Any, Any, asyncio.Future[Delivered]]]


def _sending(
    make: Callable[Concatenate[EventMaker, _P], Event],
) -> Callable[Concatenate[JobProducer, _P], Coroutine[Any, Any, str]]:
    """Turn a method that makes an event into one that sends it."""

    @functools.wraps(make)
    async def send(self: JobProducer, /, *args: _P.args, **kwargs: _P.kwargs) -> str:
        return await self.send(make(self.events, *args, **kwargs))

    return send


class JobProducer:
    """Sends job events to the log. Use it as an async context manager.

    Every event is checked as readers of the log will check it, sent, and awaited until Kafka has
    acknowledged it. The returned position makes a read of the service see the event. An event that
    is not acknowledged in time raises LogUnavailable, which says whether it may have arrived
    (`outcome_unknown`) and carries it (`event`) so that it can be sent again: a duplicate changes
    nothing. When Kafka is back, sending resumes by itself. At most 10,000 events are in flight;
    others wait.

    Args:
        source: The sender, as a CloudEvents source: `//billing/worker-7`.
        bootstrap_servers: Kafka, `host:port[,host:port]`. None: `JOBTRAIL_BOOTSTRAP_SERVERS`, else
            the service that runs on this machine.
        settings: Everything else about Kafka; None for the environment's.
        within: Seconds in which an event is acknowledged or given up.

    Raises:
        NotRunning: No Kafka is named, and no service runs on this machine.
        SettingError: A setting can't be used.
    """

    def __init__(
        self,
        source: str,
        *,
        bootstrap_servers: str | None = None,
        settings: Settings | None = None,
        within: float = WITHIN,
    ) -> None:
        self._settings = _reaching(settings, bootstrap_servers)
        self._delivery = Delivery(self._settings, within)
        self._within = within
        self._turn = asyncio.Lock()
        #: Makes events without sending them, for `send` and `send_all`.
        self.events = EventMaker(source)

    created = _sending(EventMaker.created)
    active = _sending(EventMaker.active)
    progress = _sending(EventMaker.progress)
    retry = _sending(EventMaker.retry)
    completed = _sending(EventMaker.completed)
    failed = _sending(EventMaker.failed)
    cancelled = _sending(EventMaker.cancelled)
    expired = _sending(EventMaker.expired)

    async def __aenter__(self) -> Self:
        """Connect, if Kafka is there; else the first event waits for it."""
        try:
            await self._delivery.open()
        except LogUnavailable as error:
            logger.warning("action=producer_starts_without_kafka %s", error)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await self._delivery.close()

    async def send(self, event: Event) -> str:
        """Send one event.

        Args:
            event: From `events`, or built by the caller.

        Returns:
            The position after it.

        Raises:
            EventError: It is no valid event; nothing was sent.
            LogUnavailable: Kafka did not acknowledge it in time.
        """
        return await self._deliver(event, self._delivery.send)

    async def send_in_turn(self, event: Event) -> str:
        """Send one event after all that were given to this method before it.

        Concurrent calls keep the order in which they began; those of `send` need not.

        Args:
            event: As for `send`.

        Returns:
            The position after it.

        Raises:
            EventError: It is no valid event; nothing was sent.
            LogUnavailable: Kafka did not acknowledge it in time.
        """
        return await self._deliver(event, self._hand_over_in_turn)

    async def _deliver(self, event: Event, hand_over: _HandOver) -> str:
        value = _checked(event)
        try:
            place = await (await hand_over(event.subject, value))
        except LogUnavailable as error:
            error.event = event
            raise
        return format_position({place.partition: place.offset + 1})

    async def _hand_over_in_turn(self, job_id: str, value: bytes) -> asyncio.Future[Delivered]:
        try:
            # A lock wakes its waiters in their order, and nothing overtakes them.
            async with asyncio.timeout(self._within), self._turn:
                return await self._delivery.send(job_id, value)
        except TimeoutError:
            raise self._delivery.not_sent("Kafka did not take those before it in time.") from None

    async def send_all(self, events: Iterable[Event]) -> str:
        """Send many events, without waiting for one before the next.

        Args:
            events: Those of one job in their order.

        Returns:
            The position after all of them; empty where there were none.

        Raises:
            EventError: One is no valid event; those before it were sent.
            LogUnavailable: Kafka did not acknowledge all of them in time. Send all of them again:
                duplicates change nothing.
        """
        position: dict[int, int] = {}
        failures: list[LogUnavailable] = []
        under_way: set[asyncio.Future[Delivered]] = set()

        def done(sent: asyncio.Future[Delivered]) -> None:
            under_way.discard(sent)
            error = sent.exception()
            if isinstance(error, LogUnavailable):
                failures.append(error)
                return
            place = sent.result()
            position[place.partition] = max(position.get(place.partition, 0), place.offset + 1)

        try:
            for number, event in enumerate(events):
                if failures:
                    break
                if number % _TURN == 0:
                    # Without a wait for capacity no other task would run.
                    await asyncio.sleep(0)
                sent = await self._delivery.send(event.subject, _checked(event))
                under_way.add(sent)
                sent.add_done_callback(done)
        finally:
            if under_way:
                await asyncio.wait(under_way)
        if failures:
            raise failures[0]
        return format_position(position)

    def job(
        self,
        job_type: str,
        *,
        owner: str,
        job_id: str | None = None,
        bulk_id: str | None = None,
        viewers: Iterable[str] = (),
        worker: str | None = None,
    ) -> RunningJob:
        """Return a job that is run as the body of an `async with`.

        Args:
            job_type: The job's type.
            owner: The job's owner.
            job_id: None for a new unique one.
            bulk_id: The bulk that it is part of.
            viewers: Who else may see it: `user:bob`, `group:stewards`.
            worker: Who runs it.
        """
        created = self.events.created(
            job_id or str(uuid.uuid4()),
            job_type=job_type,
            owner=owner,
            bulk_id=bulk_id,
            viewers=viewers,
        )
        return RunningJob(self, created, worker)


class RunningJob:
    """A job whose work is the body of an `async with`.

    It is created and active when the body begins, completed with `output` when it ends, failed with
    its exception, and cancelled where it was interrupted.
    """

    def __init__(self, producer: JobProducer, created: Event, worker: str | None) -> None:
        self._producer = producer
        self._created = created
        self._worker = worker
        self.id = created.subject
        #: The job's result, as JSON: set it before the body ends.
        self.output: Any = None

    async def progress(self, progress: float | None = None, message: str | None = None) -> str:
        """Report the job's progress, 0 to 1; return the position."""
        return await self._producer.progress(self.id, progress, message=message)

    async def __aenter__(self) -> Self:
        """Send `job.created` and `job.active`."""
        active = self._producer.events.active(self.id, worker=self._worker)
        await self._producer.send_all([self._created, active])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send how the job ended."""
        if error is None:
            await self._producer.completed(self.id, output=self.output)
            return
        try:
            if isinstance(error, Exception):
                about = {"type": type(error).__name__, "message": str(error)[:_MESSAGE]}
                await self._producer.failed(self.id, error=about, output=self.output)
            else:
                await self._producer.cancelled(self.id, reason=type(error).__name__)
        except LogUnavailable as unsaid:
            # The body's own error matters more.
            error.add_note(f"The log does not know how job {self.id} ended: {unsaid}")


def _checked(event: Event) -> bytes:
    """Encode an event after checking that every reader of the log can decode it."""
    value = encode(event)
    trace = current_trace()
    if trace is not None:
        # CloudEvents' extension "Distributed Tracing".
        value = b'%b,"traceparent":"%b"}' % (value[:-1], trace.encode())
    decode(value)
    return value


def _reaching(settings: Settings | None, bootstrap_servers: str | None) -> Settings:
    found = settings or load()
    if bootstrap_servers:
        return found.model_copy(update={"bootstrap_servers": bootstrap_servers})
    return with_log(found)
