"""From records to events, in columns: what `jobtrail.decoding.accept` refuses is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
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
    headers = records.column("headers")
    some_headers = headers.null_count < len(headers)
    columns = zip(
        records.column("partition").to_pylist(),
        records.column("offset").to_pylist(),
        records.column("logged_at").cast(pa.int64()).to_pylist(),
        records.column("key").to_pylist(),
        records.column("value").to_pylist(),
        strict=True,
    )
    for number, (partition, offset, logged_at, key, value) in enumerate(columns):
        if some_headers and value is not None and _is_misnamed(headers[number].as_py()):
            value = Misnamed(value)
        timestamp = min(max(logged_at, _FIRST), _LAST)
        yield Record(Place(partition, offset, timestamp), key, value)


def decode(records: pa.RecordBatch, partitions: int) -> Decoded:
    """Return the valid events among records.

    Args:
        records: Of `schemas.RECORDS`, of one partition or several.
        partitions: How many partitions the log has.
    """
    kept: list[int] = []
    rows: list[tuple[Any, ...]] = []
    for number, (place, key, value) in enumerate(in_turn(records)):
        try:
            event = accept(key, value, place.partition, partitions)
        except EventError:
            continue
        kept.append(number)
        rows.append(_row(event, place.timestamp))
    whole = records if len(kept) == len(records) else records.take(pa.array(kept, pa.int64()))
    own = zip(*rows, strict=True) if rows else ([] for _ in EVENTS.names[3:])
    batch = pa.RecordBatch.from_arrays(
        [
            *(whole.column(name) for name in EVENTS.names[:3]),
            *(
                pa.array(list(values), field.type)
                for values, field in zip(own, list(EVENTS)[3:], strict=True)
            ),
        ],
        schema=EVENTS,
    )
    return Decoded(batch, len(records) - len(kept))


def _is_misnamed(headers: Sequence[dict[str, bytes]] | None) -> bool:
    try:
        for header in headers or ():
            header["name"].decode()
    except UnicodeDecodeError:
        return True
    return False


def _row(event: ev.Event, logged_at: int) -> tuple[Any, ...]:
    """Return what an event says, in the order of `EVENTS` from `id` on."""
    data = event.data
    time = event.time
    owner = job_type = bulk_id = viewers = progress = error = output = details = None
    if isinstance(data, ev.CreatedData):
        owner, job_type, bulk_id, viewers = data.owner, data.job_type, data.bulk_id, data.viewers
    elif isinstance(data, ev.ActiveData):
        details = _details(worker=data.worker)
    elif isinstance(data, ev.ProgressData):
        progress = data.progress
        details = _details(message=data.message)
    elif isinstance(data, ev.RetryData):
        error = bytes(data.error).decode() or None
        details = _details(retryAt=data.retry_at)
    elif isinstance(data, ev.ReasonData):
        details = _details(reason=data.reason)
    else:
        output = bytes(data.output).decode() or None
        if isinstance(data, ev.FailedData):
            error = bytes(data.error).decode() or None
    return (
        event.id,
        event.source,
        _TYPES[type(event)],
        event.subject,
        ev.microseconds(time) if time is not None else logged_at,
        data.attempt,
        job_type,
        owner,
        bulk_id,
        viewers,
        None if data.tags is None else list(data.tags.items()),
        progress,
        error,
        output,
        details,
    )


def _details(**said: Any) -> str | None:
    found = {name: value for name, value in said.items() if value is not None}
    return msgspec.json.encode(found).decode() if found else None


_TYPES: Final = dict(zip(ev.EVENT_TYPES, ev.TYPE_NAMES, strict=True))
