"""From records to events, in columns: what `jobtrail.decoding.accept` refuses is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from jobtrail import events as ev
from jobtrail.decoding import accept
from jobtrail.errors import EventError
from jobtrail.job import Place
from jobtrail.records import Misnamed
from jobtrail.replay.schemas import EVENTS

#: Years 2 to 9998, as the fold has it: a record's timestamp is its producer's.
_FIRST: Final = -62_104_060_800_000_000
_LAST: Final = 253_370_764_799_999_999


class Decoded(NamedTuple):
    """The valid events among some records."""

    #: Of `schemas.EVENTS`.
    events: pa.RecordBatch
    #: How many records are no valid event.
    refused: int


class Record(NamedTuple):
    """A record of the log; its place's timestamp is as the fold takes it."""

    place: Place
    key: bytes | None
    value: bytes | None


def in_turn(records: pa.RecordBatch) -> Iterator[Record]:
    """Yield records one by one, as `accept` takes them.

    Args:
        records: Of `schemas.RECORDS`.
    """
    offsets = records.column("offset").to_pylist()
    for (partition, logged_at, key, value), offset in zip(_plain(records), offsets, strict=True):
        timestamp = min(max(logged_at, _FIRST), _LAST)
        yield Record(Place(partition, offset, timestamp), key, value)


def _plain(records: pa.RecordBatch) -> Iterator[tuple[int, int, bytes | None, bytes | None]]:
    """Return partition, timestamp, key and value of each record."""
    headers = records.column("headers")
    values = records.column("value").to_pylist()
    if headers.null_count < len(headers):
        values = [
            Misnamed(value) if value is not None and _is_misnamed(found) else value
            for value, found in zip(values, headers.to_pylist(), strict=True)
        ]
    return zip(
        records.column("partition").to_pylist(),
        records.column("logged_at").cast(pa.int64()).to_pylist(),
        records.column("key").to_pylist(),
        values,
        strict=True,
    )


def decode(records: pa.RecordBatch, partitions: int) -> Decoded:
    """Return the valid events among records.

    Args:
        records: Of `schemas.RECORDS`, of one partition or several.
        partitions: How many partitions the log has.
    """
    events: list[ev.Event] = []
    refused: list[int] = []
    times: list[Any] = []
    for number, (partition, logged_at, key, value) in enumerate(_plain(records)):
        try:
            event = accept(key, value, partition, partitions)
        except EventError:
            refused.append(number)
            continue
        events.append(event)
        # A datetime or microseconds: Arrow takes both.
        time = event.time
        times.append(min(max(logged_at, _FIRST), _LAST) if time is None else time)
    whole = records
    if refused:
        kept = np.delete(np.arange(len(records)), refused)
        whole = records.take(pa.array(kept))
    own = {"time": times, **_columns(events)}
    batch = pa.RecordBatch.from_arrays(
        [
            *(whole.column(name) for name in EVENTS.names[:3]),
            *(pa.array(own[field.name], field.type) for field in list(EVENTS)[3:]),
        ],
        schema=EVENTS,
    )
    return Decoded(batch, len(refused))


def _is_misnamed(headers: Sequence[dict[str, bytes]] | None) -> bool:
    try:
        for header in headers or ():
            header["name"].decode()
    except UnicodeDecodeError:
        return True
    return False


def _columns(events: list[ev.Event]) -> dict[str, list[Any]]:
    """Return what events say by the names of `EVENTS`, but for their places and times.

    Column by column, since a row for each event would take three times as long; most events say
    nothing in most columns.
    """
    data = [event.data for event in events]
    found: dict[str, list[Any]] = {
        "id": [event.id for event in events],
        "source": [event.source for event in events],
        "type": [_TYPES[type(event)] for event in events],
        "job_id": [event.subject for event in events],
        "attempt": [said.attempt for said in data],
        "tags": [None if said.tags is None else list(said.tags.items()) for said in data],
        **{name: [None] * len(events) for name in _SELDOM},
    }
    for row, said in enumerate(data):
        for name, of in _SAID[type(said)]:
            found[name][row] = of(said)
    return found


def _json(name: str) -> Callable[[Any], str | None]:
    return lambda said: bytes(getattr(said, name)).decode() or None


def _told(name: str, called: str) -> Callable[[Any], str | None]:
    return lambda said: _details(**{called: getattr(said, name)})


def _details(**said: Any) -> str | None:
    found = {name: value for name, value in said.items() if value is not None}
    return msgspec.json.encode(found).decode() if found else None


_TYPES: Final = dict(zip(ev.EVENT_TYPES, ev.TYPE_NAMES, strict=True))
_SELDOM: Final = (
    "job_type", "owner", "bulk_id", "viewers", "progress", "error", "output", "details",
)  # fmt: skip
#: What each type of data says beyond what all say: the column, and how to read it.
_SAID: Final[dict[type, tuple[tuple[str, Callable[[Any], Any]], ...]]] = {
    ev.CreatedData: tuple(
        (name, attrgetter(name)) for name in ("job_type", "owner", "bulk_id", "viewers")
    ),
    ev.ActiveData: (("details", _told("worker", "worker")),),
    ev.ProgressData: (
        ("progress", attrgetter("progress")),
        ("details", _told("message", "message")),
    ),
    ev.RetryData: (("error", _json("error")), ("details", _told("retry_at", "retryAt"))),
    ev.CompletedData: (("output", _json("output")),),
    ev.FailedData: (("error", _json("error")), ("output", _json("output"))),
    ev.ReasonData: (("details", _told("reason", "reason")),),
}
