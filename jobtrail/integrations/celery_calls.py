"""One call of a Celery task, as fields of a job's events."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobtrail.produce.event_factory import Envelope

#: Headers of a task: its owner, viewers and tags.
OWNER: Final = "jobtrail_owner"
VIEWERS: Final = "jobtrail_viewers"
TAGS: Final = "jobtrail_tags"
#: The header of a task whose publisher sends its `job.created`.
TOLD: Final = "jobtrail_told"

_LONGEST_ID: Final = 256
_MESSAGE: Final = 4096
#: Only the end of a traceback, which matters most; escaped in JSON it fits into an event.
_TRACEBACK: Final = 8000


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a task: the argument of the callables that return its owner and the like.

    Attributes:
        id: The task's id, which is the job's.
        name: The task's name, which is the job's type.
        args: What it is called with.
        kwargs: What it is called with, by name.
        headers: Of its message.
        group: The group that it is in, which is the job's bulk.
    """

    id: str
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    headers: Mapping[str, Any]
    group: str | None


def call_of_headers(name: str, headers: Mapping[str, Any], body: Any = None) -> Call:
    """Return the call in a message of Celery's protocol 2.

    Source: Celery, "Message Protocol", "Version 2": the body is (args, kwargs, embed).
    """
    args, kwargs = body[:2] if isinstance(body, (tuple, list)) else ((), {})
    return Call(headers["id"], name, args, kwargs, headers, headers.get("group"))


def call_of_request(name: str, request: Any) -> Call:
    """Return the call that a worker runs, of its `task.request`."""
    headers = request.headers or {}
    return Call(request.id, name, request.args or (), request.kwargs or {}, headers, request.group)


def event_id(job_id: str, *parts: object) -> str:
    """Return an event id that is the same for the same parts."""
    whole = "/".join([job_id, *map(str, parts)])
    return whole if len(whole) <= _LONGEST_ID else hashlib.sha256(whole.encode()).hexdigest()


def envelope(kind: str, request: Any) -> Envelope:
    """Return the optional fields of an event of a run.

    A task that replaces another has its id and restarts the count of attempts; its events then name
    no attempt, and belong to the job's current one.

    Args:
        kind: The event's type.
        request: The `task.request`.
    """
    nesting, retries = request.replaced_task_nesting or 0, request.retries or 0
    if nesting:
        return Envelope(event_id=event_id(request.id, kind, nesting, retries))
    return Envelope(event_id=event_id(request.id, kind, retries), attempt=retries)


def error_of(error: BaseException | str | None, trace: object = None) -> dict[str, str]:
    """Return an error as an event has it, also one whose text can't be made.

    Args:
        error: What was raised.
        trace: Its traceback as text, where that is wanted.
    """
    try:
        message = str(error)
    except Exception:
        message = "(it can't be put into words)"
    # An exception that can't be pickled comes in a wrapper with its name.
    kind = getattr(error, "exc_cls_name", None) or type(error).__name__
    about = {"type": kind, "message": _plain(message[:_MESSAGE])}
    if trace is not None:
        about["traceback"] = _plain(str(trace)[-_TRACEBACK:])
    return about


def _plain(text: str) -> str:
    """Return a text without characters that UTF-8 can't encode."""
    return text.encode("utf-8", "replace").decode()
