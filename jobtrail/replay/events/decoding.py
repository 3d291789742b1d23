"""From records to events, in columns: what `jobtrail.core.decoding.accept` refuses is left out.

Most records of a log are of a few forms and are read without parsing. Nearly all others are clear:
a few looks at all of them together, and one call of the decoder for hundreds, tell that `accept`
would take each. What is left is put before it one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.core import events as ev
from jobtrail.core.decoding import InvalidHeader, accept, decode_clear
from jobtrail.core.errors import EventError
from jobtrail.core.fold import FIRST, LAST, within_years
from jobtrail.core.job import Place
from jobtrail.core.partition_columns import partitions_within
from jobtrail.replay.events.columns import columns_of
from jobtrail.replay.forms.columns import Forms, read
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
            values[row] = InvalidHeader(values[row])
    return zip(
        records.column("partition").to_pylist(),
        records.column("logged_at").cast(pa.int64()).to_pylist(),
        records.column("key").to_pylist(),
        values,
        strict=True,
    )


class Decoder:
    """Makes events of the records of one log.

    Args:
        partitions: How many partitions the log has.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._forms = Forms()

    def decode(self, records: pa.RecordBatch) -> Decoded:
        """Return the valid events among records.

        Args:
            records: Of `schemas.RECORDS`, of one partition or several.
        """
        misnamed = _misnamed(records.column("headers"))
        placed = _partitions_of(records.column("key"), self._partitions)
        there = placed == records.column("partition").to_numpy()
        formed = read(records, misnamed | ~there, self._forms)
        if formed.known.all():
            return Decoded(_batch(records, formed.columns), 0)
        rows = np.flatnonzero(~formed.known)
        if len(rows) == len(records):
            kept, events = self._parsed(records, misnamed, there)
            return Decoded(events, len(rows) - len(kept))
        of_form = pa.array(formed.known)
        known = _batch(
            records.filter(of_form),
            {name: column.filter(of_form) for name, column in formed.columns.items()},
        )
        kept, events = self._parsed(records.take(pa.array(rows)), misnamed[rows], there[rows])
        order = np.argsort(np.concatenate([np.flatnonzero(formed.known), rows[kept]]))
        together = pa.concat_batches([known, events]).take(pa.array(order))
        return Decoded(together, len(rows) - len(kept))

    def _parsed(
        self, records: pa.RecordBatch, misnamed: _Flags, there: _Flags
    ) -> tuple[_Numbers, pa.RecordBatch]:
        """Parse records, and learn from some; return which of them are events, and these."""
        values = records.column("value").to_pylist()
        events = _clear_events(values, misnamed)
        doubtful = np.flatnonzero(~(there & _named_so(records.column("key"), events)))
        if len(doubtful):
            _judge(records, events, doubtful, self._partitions)
        kept = np.flatnonzero(np.array([event is not None for event in events], np.bool_))
        if len(kept) < len(records):
            records = records.take(pa.array(kept))
        known = [event for event in events if event is not None]
        for place in self._forms.wanted(len(known)):
            self._forms.learn(values[kept[place]], known[place])
        times = pa.array([event.time for event in known], _INSTANT)
        return kept, _batch(records, {**columns_of(known), "time": times})


def _batch(records: pa.RecordBatch, said: dict[str, pa.Array]) -> pa.RecordBatch:
    """Return events, by what they say and where their records lie."""
    clocks = records.column("logged_at").cast(pa.int64()).to_numpy()
    logged_at = pa.array(np.clip(clocks, FIRST, LAST)).cast(_INSTANT)
    times = said["time"]
    columns = {
        **said,
        "partition": records.column("partition"),
        "offset": records.column("offset"),
        "logged_at": logged_at,
        "job_id": records.column("key").cast(pa.string()),
        "time": pc.coalesce(times, logged_at) if times.null_count else times,
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in EVENTS.names], schema=EVENTS)


def _clear_events(values: list[bytes | None], misnamed: _Flags) -> list[ev.Event | None]:
    """Decode the clear records; None stands for each of the others."""
    events: list[ev.Event | None] = []
    for begin in range(0, len(values), _PIECE):
        events += decode_clear(values[begin : begin + _PIECE])
    for row in np.flatnonzero(misnamed).tolist():
        events[row] = None
    return events


def _named_so(keys: pa.BinaryArray, events: Sequence[ev.Event | None]) -> _Flags:
    """Tell whose key is its job's id."""
    subjects = pa.array([event and event.subject for event in events], pa.string())
    same = pc.fill_null(pc.equal(keys, subjects.cast(pa.binary())), False)
    named: _Flags = same.to_numpy(zero_copy_only=False)
    return named


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
) -> None:
    """Put doubtful records before `accept`; None stands for what it refuses."""
    judged = records if len(rows) == len(records) else records.take(pa.array(rows))
    for row, (partition, _, key, value) in zip(rows.tolist(), _plain(judged), strict=True):
        try:
            events[row] = accept(key, value, partition, partitions)
        except EventError:
            events[row] = None


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
