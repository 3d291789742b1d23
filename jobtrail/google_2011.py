"""The job events of the Google cluster trace of 2011 as events of ours.

Source: Reiss, Wilkes, Hellerstein, "Google cluster-usage traces: format + schema" (2011), CC-BY
4.0; event types in its section "job events table". The trace's clock starts at 2011-05-01T22:50Z
with 600 s for what came before it.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from jobtrail import events as ev
from jobtrail.errors import UsageError

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


class Row(NamedTuple):
    """One row of the trace, as an event or as the reason why it is none."""

    file: Path
    line: int
    event: ev.Event | None
    error: str


def read(files: Iterable[Path]) -> Iterator[Row]:
    """Read part files of the trace, plain or gzipped, in the order given.

    An event's id is made of its row's content, and of how often that content was there before:
    reading the same files again gives the same ids.

    Raises:
        UsageError: A file is no part of the trace.
    """
    submits: Counter[str] = Counter()
    latest: dict[str, tuple[str, list[int]]] = {}
    for file in files:
        with _open(file) as lines:
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
                    columns = next(rows)
                    event = _event(columns, submits, latest)
                except StopIteration:
                    break
                except (ValueError, OverflowError, csv.Error) as error:
                    yield Row(file, rows.line_num, None, str(error))
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    yield Row(file, rows.line_num, None, f"the file is cut or damaged: {error}")
                    break
                else:
                    yield Row(file, rows.line_num, event, "")


def _open(file: Path) -> TextIO:
    with file.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(file, "rt", encoding="utf-8", errors="surrogateescape", newline="")
    return file.open(encoding="utf-8", errors="surrogateescape", newline="")


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
