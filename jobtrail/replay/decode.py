"""From records to events, in columns: what `jobtrail.decoding.accept` refuses is left out.

Nearly all records of a log are clear: a few looks at all of them together, and one call of the
decoder for hundreds, tell that `accept` would take each. The others are put before it one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobtrail import events as ev
from jobtrail.decoding import accept
from jobtrail.errors import EventError
from jobtrail.job import Place
from jobtrail.records import Misnamed
from jobtrail.replay.event_columns import columns_of
from jobtrail.replay.placing import partitions_of
from jobtrail.replay.schemas import EVENTS

#: Years 2 to 9998, as the fold has it: a record's timestamp is its producer's.
_FIRST: Final = -62_104_060_800_000_000
_LAST: Final = 253_370_764_799_999_999
#: What an event's own time may surely be: beyond lie a day and more in which its offset counts.
_SURELY_FROM: Final = _FIRST + 3 * 86_400_000_000
_SURELY_TO: Final = _LAST - 3 * 86_400_000_000
_INSTANT: Final = EVENTS.field("time").type
#: Records that are decoded at one go; where one of them is no event, each is judged alone.
_PIECE: Final = 512

_Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]


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
    times = _times(events)
    doubtful = np.flatnonzero(~(_timely(times) & _well_placed(records, events, partitions)))
    refused = 0
    if len(doubtful):
        refused = _judge(records, events, doubtful, partitions)
        if refused:
            kept = np.array([event is not None for event in events])
            records = records.filter(pa.array(kept))
            events = [event for event in events if event is not None]
        times = _times(events)
    assert times is not None, "an event was accepted whose time can't be told"
    known = [event for event in events if event is not None]
    clocks = records.column("logged_at").cast(pa.int64()).to_numpy()
    logged_at = pa.array(np.clip(clocks, _FIRST, _LAST)).cast(_INSTANT)
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
    clear = np.flatnonzero(_clear(records, values)).tolist()
    events: list[ev.Event | None] = [None] * len(values)
    for begin in range(0, len(clear), _PIECE):
        rows = clear[begin : begin + _PIECE]
        try:
            found = ev.decode_lines(b"\n".join([values[row] for row in rows]))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        # As many as there are lines: then each line, which is one record, is one event.
        if len(found) == len(rows):
            for row, event in zip(rows, found, strict=True):
                events[row] = event
    return events


def _clear(records: pa.RecordBatch, values: Sequence[bytes | None]) -> _Flags:
    """Tell whose value the decoder alone judges as `jobtrail.events.decode` does."""
    lengths = pc.fill_null(pc.binary_length(records.column("value")), 0).to_numpy()
    clear: _Flags = (lengths > 0) & (lengths <= ev.MAX_PAYLOAD_BYTES)
    clear &= ~_misnamed(records.column("headers"))
    for row in np.flatnonzero(clear & (lengths > 2 * ev.MAX_NESTING)).tolist():
        value = values[row] or b""
        clear[row] = value.count(b"[") + value.count(b"{") <= ev.MAX_NESTING
    if not _is_simple(b"".join([value for value in values if value is not None])):
        clear &= np.fromiter((_is_simple(value or b"") for value in values), bool, len(values))
    return clear


def _is_simple(text: bytes) -> bool:
    """Tell that no control character can be in it, neither as it is nor behind a backslash."""
    return text.isascii() and b"\\" not in text and b"\x7f" not in text and b"\n" not in text


def _times(events: Sequence[ev.Event | None]) -> pa.Array | None:
    """Return the times that events name; None where one can't be told."""
    try:
        return pa.array([event and event.time for event in events], _INSTANT)
    except (OverflowError, ValueError):  # pa.ArrowInvalid is one
        return None


def _timely(times: pa.Array | None) -> bool | _Flags:
    if times is None:
        return False
    found = pc.fill_null(times.cast(pa.int64()), 0).to_numpy()
    timely: _Flags = (found >= _SURELY_FROM) & (found <= _SURELY_TO)
    return timely


def _well_placed(
    records: pa.RecordBatch, events: Sequence[ev.Event | None], partitions: int
) -> _Flags:
    """Tell whose key is its job's id, in the partition of that key."""
    keys = records.column("key")
    subjects = pa.array([event and event.subject for event in events], pa.string())
    same = pc.fill_null(pc.equal(keys, subjects.cast(pa.binary())), False)
    there = partitions_of(keys, partitions) == records.column("partition").to_numpy()
    placed: _Flags = same.to_numpy(zero_copy_only=False) & there
    return placed


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
