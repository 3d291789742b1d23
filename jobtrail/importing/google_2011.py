"""The job events of the Google cluster trace of 2011 as events of ours.

Source: Reiss, Wilkes, Hellerstein, "Google cluster-usage traces: format + schema" (2011), CC-BY
4.0; event types in its section "job events table". The trace's clock starts at 2011-05-01T22:50Z
with 600 s for what came before it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from jobtrail.core import events as ev
from jobtrail.core.errors import EventError, UsageError
from jobtrail.importing.checkpoint import identify
from jobtrail.importing.opening import DAMAGED, open_text
from jobtrail.importing.row import Made, Row
from jobtrail.importing.running import Source

COLUMNS: Final = (
    "time_us", "job_id", "event_type", "user", "scheduling_class", "logical_job_name",
)  # fmt: skip
_START: Final = datetime(2011, 5, 1, 22, 50, tzinfo=UTC)
_SUBMIT: Final = 0
_TYPES: Final = {
    1: ev.Active,
    2: ev.Retry,
    3: ev.Failed,
    4: ev.Completed,
    5: ev.Cancelled,
    6: ev.Expired,
    7: ev.Progress,
    8: ev.Progress,
}


class Trace:
    """Reads part files of the trace, in the order of its time.

    An event's id is made of its row's content, and of how often that content was there before:
    reading the same files again gives the same ids.
    """

    def __init__(self) -> None:
        self._submits: Counter[str] = Counter()
        self._latest: dict[str, tuple[str, list[int]]] = {}

    def read(self, file: Path) -> Iterator[Row]:
        """Read the next part file, plain or compressed.

        Raises:
            UsageError: It is no part of the trace.
        """
        with open_text(file) as lines:
            rows = csv.reader(lines)
            header = next(rows, [])
            if tuple(header) != COLUMNS:
                raise UsageError(
                    "This is no file of job events of the Google trace.",
                    where=str(file),
                    expected=f"the header {','.join(COLUMNS)}",
                    found=",".join(header)[:200],
                )
            while True:
                try:
                    event = _event(next(rows), self._submits, self._latest)
                    row = Row(file, rows.line_num, (_made(event),))
                except StopIteration:
                    break
                except DAMAGED as error:
                    reason = f"the file is cut or damaged: {error}"
                    yield Row(file, rows.line_num, error=reason)
                    break
                except (ValueError, OverflowError, csv.Error, EventError) as error:
                    row = Row(file, rows.line_num, error=str(error))
                yield row


def sources(files: Iterable[Path]) -> list[Source]:
    """Return files of the trace as what can be imported; what is in one depends on those before."""
    trace, before, found = Trace(), "google-2011", []
    for file in files:
        identity = identify(file, before)
        before = identity.head + identity.mapping
        found.append(Source(file, identity, partial(_behind, trace, file)))
    return found


def _behind(trace: Trace, file: Path, after: int) -> Iterator[Row]:
    return islice(trace.read(file), after, None)


def _made(event: ev.Event) -> Made:
    value = ev.encode(event)
    ev.decode(value)
    return Made(event.subject, str(event.__struct_config__.tag), value)


def _event(
    columns: list[str], submits: Counter[str], latest: dict[str, tuple[str, list[int]]]
) -> ev.Event:
    """Make a row's event; `latest` holds the event types of each job's latest instant."""
    if len(columns) != len(COLUMNS):
        raise ValueError(f"expected {len(COLUMNS)} columns, found {len(columns)}")
    try:
        "".join(columns).encode()
    except UnicodeEncodeError:
        raise ValueError("expected UTF-8, found other bytes") from None
    time_us, job_id, type_text, user, scheduling_class, logical_name = columns
    kind = int(type_text)
    if kind == _SUBMIT:
        submits[job_id] += 1
    attempt = max(submits[job_id] - 1, 0)
    at, kinds = latest.get(job_id, ("", []))
    kinds = [*kinds, kind] if at == time_us else [kind]
    latest[job_id] = (time_us, kinds)
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"google-2011.{job_id}.{time_us}.{kind}.{kinds.count(kind)}",
        "source": "//google-2011/job-events",
        "subject": job_id,
        "time": _START + timedelta(microseconds=int(time_us)),
    }
    if kind == _SUBMIT:
        created = ev.CreatedData(
            attempt=attempt,
            job_type=f"scheduling-class-{scheduling_class}",
            owner=user,
            bulk_id=logical_name or None,
            tags={"logicalName": logical_name} if logical_name else None,
        )
        return ev.Created(**envelope, data=created)
    if kind not in _TYPES:
        raise ValueError(f"expected an event type from 0 to 8, found {kind}")
    event_type = _TYPES[kind]
    event: ev.Event = event_type(**envelope)
    event.data.attempt = attempt
    return event
