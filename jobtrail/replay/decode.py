"""From records to events, in columns: what `jobtrail.decoding.accept` refuses is left out.

Nearly all records of a log are clear: a few looks at all of them together, and one call of the
decoder for hundreds, tell that `accept` would take each. The others are put before it one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobtrail import events as ev
from jobtrail.decoding import accept, decode_clear
from jobtrail.errors import EventError
from jobtrail.fold import FIRST, LAST, within_years
from jobtrail.job import Place
from jobtrail.placing import partitions_within
from jobtrail.records import Misnamed
from jobtrail.replay.event_columns import columns_of
from jobtrail.replay.schemas import EVENTS

_INSTANT: Final = EVENTS.field("time").type
#: Records that are decoded at one go.
_PIECE: Final = 512

_Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]
_Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


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
        yield Record(Place(partition, offset, within_years(logged_at)), key, value)


def _plain(records: pa.RecordBatch) -> Iterator[tuple[int, int, bytes | None, bytes | None]]:
    """Return partition, timestamp, key and value of each record."""
    values = records.column("value").to_pylist()
    misnamed = _misnamed(records.column("headers"))
    for row in np.flatnonzero(misnamed).tolist():
        if values[row] is not None:
            values[row] = Misnamed(values[row])
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
    events = _clear_events(records)
    doubtful = np.flatnonzero(~_well_placed(records, events, partitions))
    refused = 0
    if len(doubtful):
        refused = _judge(records, events, doubtful, partitions)
        if refused:
            kept = np.array([event is not None for event in events])
            records = records.filter(pa.array(kept))
    known = [event for event in events if event is not None]
    times = pa.array([event.time for event in known], _INSTANT)
    clocks = records.column("logged_at").cast(pa.int64()).to_numpy()
    logged_at = pa.array(np.clip(clocks, FIRST, LAST)).cast(_INSTANT)
    columns = {
        **columns_of(known),
        "partition": records.column("partition"),
        "offset": records.column("offset"),
        "logged_at": logged_at,
        "job_id": records.column("key").cast(pa.string()),
        "time": pc.coalesce(times, logged_at),
    }
    batch = pa.RecordBatch.from_arrays([columns[name] for name in EVENTS.names], schema=EVENTS)
    return Decoded(batch, refused)


def _clear_events(records: pa.RecordBatch) -> list[ev.Event | None]:
    """Decode the clear records; None stands for each of the others."""
    values = records.column("value").to_pylist()
    events: list[ev.Event | None] = []
    for begin in range(0, len(values), _PIECE):
        events += decode_clear(values[begin : begin + _PIECE])
    for row in np.flatnonzero(_misnamed(records.column("headers"))).tolist():
        events[row] = None
    return events


def _well_placed(
    records: pa.RecordBatch, events: Sequence[ev.Event | None], partitions: int
) -> _Flags:
    """Tell whose key is its job's id, in the partition of that key."""
    keys = records.column("key")
    subjects = pa.array([event and event.subject for event in events], pa.string())
    same = pc.fill_null(pc.equal(keys, subjects.cast(pa.binary())), False)
    there = _partitions_of(keys, partitions) == records.column("partition").to_numpy()
    placed: _Flags = same.to_numpy(zero_copy_only=False) & there
    return placed


def _partitions_of(keys: pa.BinaryArray, partitions: int) -> _Numbers:
    """Return the partition of each key; what is returned for a null has no meaning."""
    _, offsets, data = keys.buffers()
    begins = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return partitions_within(content, begins.astype(np.int64), partitions)


def _judge(
    records: pa.RecordBatch,
    events: list[ev.Event | None],
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    partitions: int,
) -> int:
    """Put doubtful records before `accept`; return how many it refuses."""
    refused = 0
    judged = records if len(rows) == len(records) else records.take(pa.array(rows))
    for row, (partition, _, key, value) in zip(rows.tolist(), _plain(judged), strict=True):
        try:
            events[row] = accept(key, value, partition, partitions)
        except EventError:
            events[row] = None
            refused += 1
    return refused


def _misnamed(headers: pa.ListArray) -> _Flags:
    """Tell which records have a header whose name is no UTF-8."""
    found = np.zeros(len(headers), bool)
    if headers.null_count < len(headers):
        try:
            pc.struct_field(headers.flatten(), "name").cast(pa.string())
        except pa.ArrowInvalid:
            found[:] = [_is_misnamed(one) for one in headers.to_pylist()]
    return found


def _is_misnamed(headers: Sequence[dict[str, Any]] | None) -> bool:
    try:
        for header in headers or ():
            header["name"].decode()
    except UnicodeDecodeError:
        return True
    return False
