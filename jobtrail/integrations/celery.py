"""Celery: its signals about a task become events of a job.

```python
from jobtrail.integrations.celery import track

app = Celery("shop", broker=...)
track(app, source="//shop/worker", owner="shop")
```

docs/celery.md has the mapping and its guarantees. The signals are those of Celery 5, sent by
`celery.app.trace`, `celery.worker.request` and `celery.worker.consumer.consumer`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from celery import Celery, current_task, signals
from celery.states import REJECTED

from jobtrail.core.errors import EventError
from jobtrail.core.events import Event, decode, encode
from jobtrail.integrations.celery_calls import (
    OWNER,
    TAGS,
    TOLD,
    VIEWERS,
    Call,
    call_of_headers,
    call_of_request,
    envelope,
    error_of,
    event_id,
)
from jobtrail.integrations.outbox import Outbox
from jobtrail.internals.celery_internals import maybe_make_aware
from jobtrail.produce.event_factory import Envelope
from jobtrail.produce.sync_producer import SyncJobProducer
from jobtrail.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds that a process waits at its end for its events to be sent.
_FLUSH: Final = 10.0
#: The value of `TOLD` where the `job.created` is sent after the task is published.
_AFTER: Final = "after"
#: Celery's own internal tasks.
_INTERNAL: Final = frozenset({"celery.backend_cleanup", "celery.chord_unlock"})


def track(
    app: Celery,
    *,
    source: str,
    owner: str | Callable[[Call], str | None],
    viewers: Callable[[Call], list[str]] | list[str] | None = None,
    tags: Callable[[Call], Mapping[str, str]] | Mapping[str, str] | None = None,
    tracebacks: bool = False,
    strict: bool = False,
    bootstrap_servers: str | None = None,
    settings: Settings | None = None,
) -> Tracker:
    """Send events for every task of an app, where it is published and where it is run.

    Call it where the app is made, before anything is published. A task's headers override the
    arguments here: `jobtrail_owner`, `jobtrail_viewers`, `jobtrail_tags`.

    Args:
        app: The app.
        source: The sender, as a CloudEvents source: `//shop/worker`.
        owner: The owner of the jobs; a callable is called for each task, and where it returns None
            the owner is that of the task that published it.
        viewers: Who else may see them: `user:bob`, `group:stewards`.
        tags: Of the jobs.
        tracebacks: Whether an error has its traceback.
        strict: Whether a task is only published once Kafka has its event; else LogUnavailable.
        bootstrap_servers: Kafka, as for `SyncJobProducer`.
        settings: Everything else about Kafka.

    Returns:
        The tracker; a short script calls its `flush` before it ends.
    """
    producer = SyncJobProducer(source, bootstrap_servers=bootstrap_servers, settings=settings)
    tracker = Tracker(app, producer, owner, viewers, tags, tracebacks)
    tracker.connect()
    if strict:
        tracker.be_strict()
    return tracker


class Tracker:
    """Listens to Celery's signals; made by `track`."""

    def __init__(
        self,
        app: Celery,
        producer: SyncJobProducer,
        owner: str | Callable[[Call], str | None],
        viewers: Callable[[Call], list[str]] | list[str] | None,
        tags: Callable[[Call], Mapping[str, str]] | Mapping[str, str] | None,
        tracebacks: bool,
    ) -> None:
        self._app = app
        self._producer = producer
        self._events = producer.events
        self._outbox = Outbox(producer)
        self._owner = owner
        self._viewers = viewers
        self._tags = tags
        self._tracebacks = tracebacks

    @property
    def dropped(self) -> int:
        """How many events this process has given up."""
        return self._outbox.dropped

    def flush(self, within: float = _FLUSH) -> bool:
        """Wait until Kafka has all events; return whether that succeeded in time."""
        return self._outbox.flush(within)

    def close(self) -> None:
        """Stop listening, and disconnect once all events are sent."""
        for signal, receiver in self._receivers():
            signal.disconnect(receiver)
        self._at_end()
        atexit.unregister(self._at_end)
        self._producer.close()

    def connect(self) -> None:
        """Connect to the signals."""
        for signal, receiver in self._receivers():
            # The signals keep the only reference to the tracker.
            signal.connect(receiver, weak=False)
        atexit.register(self._at_end)

    def be_strict(self) -> None:
        """Send a task's event before the task is published, or don't publish it.

        Celery logs what a receiver of a signal raises and goes on, so it is done where all
        publishing passes: in `app.amqp.send_task_message`.
        """
        base, tracker = type(self._app.amqp), self

        class StrictAMQP(base):  # type: ignore[misc, valid-type]
            @property
            def send_task_message(self) -> Callable[..., Any]:
                send = super().send_task_message

                def tell_and_send(
                    to: Any, name: str, message: Any, headers: Any = None, **options: Any
                ) -> Any:
                    merged = {**message.headers, **(headers or {})}
                    if _is_new(name, merged):
                        said = tracker._said_of(call_of_headers(name, merged, message.body))
                        call = call_of_headers(name, merged | said, message.body)
                        tracker._producer.send(tracker._created(call))
                        headers = {**(headers or {}), **said, TOLD: "before"}
                    return send(to, name, message, headers=headers, **options)

                return tell_and_send

        self._app.amqp = StrictAMQP(app=self._app)

    def _receivers(self) -> list[tuple[Any, Callable[..., None]]]:
        return [
            (signals.before_task_publish, self._before_publish),
            (signals.after_task_publish, self._after_publish),
            (signals.task_prerun, self._prerun),
            (signals.task_retry, self._retry),
            (signals.task_success, self._success),
            (signals.task_failure, self._failure),
            (signals.task_postrun, self._postrun),
            (signals.task_internal_error, self._internal_error),
            (signals.task_revoked, self._revoked),
            (signals.task_unknown, self._refused),
            (signals.task_rejected, self._refused),
            (signals.worker_process_shutdown, self._at_end),
            (signals.worker_shutdown, self._at_end),
        ]

    # --- where a task is published

    def _before_publish(self, sender: str, headers: Any, body: Any, **_: Any) -> None:
        """Write the owner into the headers, for the workers and for the tasks that they publish."""

        def write() -> None:
            if _is_new(sender, headers):
                headers.update(self._said_of(call_of_headers(sender, headers, body)))
                headers[TOLD] = _AFTER
            elif "id" in headers:
                # The worker that retries it has run it, and has sent its `job.created` if none was
                # sent.
                headers.setdefault(TOLD, "retried")

        self._outbox.tell(write)

    def _after_publish(self, sender: str, headers: Any, body: Any, **_: Any) -> None:
        if headers.get(TOLD) == _AFTER and not headers.get("retries"):
            self._outbox.tell(lambda: self._created(call_of_headers(sender, headers, body)))

    def _said_of(self, call: Call) -> dict[str, Any]:
        """Return the headers that a task lacks after its own and the callables."""
        parent = current_task.request.headers if current_task else None
        found: dict[str, Any] = {}
        for name, wanted in ((OWNER, self._owner), (VIEWERS, self._viewers), (TAGS, self._tags)):
            value = call.headers.get(name)
            if value is None and callable(wanted):
                value = wanted(call)
            if value is None and name != TAGS:
                value = (parent or {}).get(name)
            if value is None and not callable(wanted):
                value = wanted
            if value is not None:
                found[name] = value
        if OWNER not in found:
            raise EventError(
                "Nobody owns this task.",
                reason="invalid",
                where=f"task {call.name} {call.id}",
                hint="Let `owner` return a name, or send the header `jobtrail_owner`.",
            )
        return found

    def _created(self, call: Call) -> Event:
        return self._events.created(
            call.id,
            job_type=call.name,
            owner=call.headers[OWNER],
            bulk_id=call.group,
            viewers=call.headers.get(VIEWERS) or (),
            tags=call.headers.get(TAGS) or {},
            attempt=0,
            event_id=event_id(call.id, "created"),
        )

    # --- where it is run

    def _make_known(self, call: Call) -> None:
        """Send `job.created` for a task whose publisher does not send it."""
        if TOLD not in call.headers:
            self._outbox.tell(
                lambda: self._created(
                    replace(call, headers={**call.headers, **self._said_of(call)})
                )
            )

    def _run_of(self, task: Any, request: Any) -> Call | None:
        """Return the call that a signal is about; None where it is not tracked."""
        if task.app != self._app or task.name in _INTERNAL or not request.id:
            return None
        return call_of_request(task.name, request)

    def _prerun(self, sender: Any, **_: Any) -> None:
        request = sender.request
        if (call := self._run_of(sender, request)) is None:
            return
        if not (request.is_eager and request.retries):
            self._make_known(call)
        self._outbox.tell(
            lambda: self._events.active(
                call.id, worker=request.hostname, **envelope("active", request)
            )
        )

    def _retry(
        self, sender: Any, request: Any, reason: Any = None, einfo: Any = None, **_: Any
    ) -> None:
        # Without a reason the worker lost its broker: the same attempt will be delivered again.
        if reason is None or (call := self._run_of(sender, request)) is None:
            return
        self._outbox.tell(
            lambda: self._events.retry(
                call.id,
                error=error_of(reason.exc or reason, self._trace(einfo)),
                retry_at=self._due(reason.when),
                **envelope("retry", request),
            )
        )

    def _success(self, sender: Any, result: Any, **_: Any) -> None:
        request = sender.request
        if (call := self._run_of(sender, request)) is None:
            return
        ignored = sender.ignore_result if request.ignore_result is None else request.ignore_result
        about = envelope("completed", request)

        def make() -> Event:
            if not ignored:
                try:
                    event = self._events.completed(call.id, output=result, **about)
                    decode(encode(event))
                except Exception:
                    logger.debug("action=result_left_out job=%s", call.id, exc_info=True)
                else:
                    return event
            return self._events.completed(call.id, **about)

        self._outbox.tell(make)

    def _failure(
        self, sender: Any, task_id: str, exception: Any = None, einfo: Any = None, **_: Any
    ) -> None:
        request = sender.request
        known = request if request.id == task_id else None
        self._fail(sender, task_id, known, error_of(exception, self._trace(einfo)))

    def _postrun(
        self, sender: Any, task_id: str, state: Any = None, retval: Any = None, **_: Any
    ) -> None:
        # A message that is rejected for good never runs again; Celery 5.6 has no signal for that.
        if state == REJECTED and not retval.requeue:
            self._fail(sender, task_id, sender.request, error_of(retval))

    def _internal_error(self, sender: Any, task_id: str, exception: Any = None, **_: Any) -> None:
        self._failure(sender, task_id, exception)

    def _fail(self, task: Any, task_id: str, request: Any, error: dict[str, str]) -> None:
        if task.app != self._app or task.name in _INTERNAL:
            return
        # The main process reports a child that it lost, and may not know which attempt it was.
        about = Envelope(event_id=event_id(task_id, "failed", "lost"))
        if request is not None:
            about = envelope("failed", request)
        self._outbox.tell(lambda: self._events.failed(task_id, error=error, **about))

    def _revoked(
        self, sender: Any, request: Any, terminated: bool = False, expired: bool = False, **_: Any
    ) -> None:
        if (call := self._run_of(sender, request)) is None:
            return
        self._make_known(call)
        if expired:
            self._outbox.tell(lambda: self._events.expired(call.id, **envelope("expired", request)))
            return
        why = "terminated" if terminated else "revoked"
        about = envelope("cancelled", request)
        self._outbox.tell(lambda: self._events.cancelled(call.id, reason=why, **about))

    def _refused(self, sender: Any, message: Any, exc: Any = None, **_: Any) -> None:
        """Send events for a task that the worker does not know, or whose message it can't use."""
        headers = message.headers or {}
        if sender.app != self._app or not headers.get("id") or not headers.get("task"):
            return
        call = call_of_headers(headers["task"], headers)
        self._make_known(call)
        self._outbox.tell(
            lambda: self._events.failed(
                call.id,
                error=error_of(exc),
                attempt=headers.get("retries") or 0,
                event_id=event_id(call.id, "failed", "refused"),
            )
        )

    def _trace(self, einfo: Any) -> str | None:
        return str(einfo.traceback) if self._tracebacks and einfo is not None else None

    def _due(self, when: datetime | float | None) -> datetime | None:
        if isinstance(when, (int, float)):
            # An infinite countdown is never due.
            with contextlib.suppress(OverflowError, ValueError):
                return datetime.now(UTC) + timedelta(seconds=when)
            return None
        return None if when is None else maybe_make_aware(when, self._app.timezone)

    def _at_end(self, **_: Any) -> None:
        if not self.flush():
            logger.warning("action=events_left_behind within=%.0f", _FLUSH)


def _is_new(name: str, headers: Mapping[str, Any]) -> bool:
    """Tell whether a message is a user's task without a `job.created` so far."""
    return (
        "id" in headers and not headers.get("retries") and TOLD not in headers
    ) and name not in _INTERNAL
