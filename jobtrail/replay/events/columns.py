"""What events say, as Arrow columns.

Column by column and not row by row, and of each type of event only what it can say: most events say
nothing in most columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from jobtrail.core import events as ev
from jobtrail.replay.schemas import EVENTS

_Rows: TypeAlias = np.ndarray[tuple[int], np.dtype[np.intp]]
#: Returns what some data of one type say in one column.
_Say: TypeAlias = Callable[[Sequence[Any]], list[Any]]

_CODES: Final[dict[Any, int]] = {cls: code for code, cls in enumerate(ev.EVENT_TYPES)}
_NAMES: Final = pa.array(ev.TYPE_NAMES, pa.string())
_encode: Final = msgspec.json.Encoder().encode


def columns_of(events: Sequence[ev.Event]) -> dict[str, pa.Array]:
    """Return what events say, by the names of `schemas.EVENTS`.

    All but their places, their jobs and their times, which are known otherwise.
    """
    said = [event.data for event in events]
    kinds = [type(event) for event in events]
    codes = np.array([_CODES[kind] for kind in kinds], np.int8)
    columns = {
        "id": pa.array([event.id for event in events], pa.string()),
        "source": pa.array([event.source for event in events], pa.string()),
        "type": _NAMES.take(pa.array(codes)),
        "bound_to": pa.array([event.bound_to for event in events], pa.string()),
        "attempt": pa.array([data.attempt for data in said], pa.int32()),
        "tags": _tags([data.tags for data in said]),
    }
    rows_of: dict[int, tuple[_Rows, list[Any]]] = {}
    for code in np.unique(codes).tolist():
        rows = np.flatnonzero(codes == code)
        rows_of[code] = rows, [said[row] for row in rows.tolist()]
    for name, sayings in _SAID.items():
        speaking = [(rows_of[code], say) for code, say in sayings if code in rows_of]
        values = [value for (_, data), say in speaking for value in say(data)]
        places = [rows for (rows, _), _ in speaking]
        columns[name] = _spread(values, places, len(said), EVENTS.field(name).type)
    return columns


def _spread(values: list[Any], rows: Sequence[_Rows], count: int, kind: pa.DataType) -> pa.Array:
    """Return a column of so many rows, with nulls where nobody says anything."""
    if not any(value is not None for value in values):
        return pa.nulls(count, kind)
    missing = np.ones(count, bool)
    source = np.zeros(count, np.int64)
    spoken = np.concatenate(rows)
    missing[spoken] = False
    source[spoken] = np.arange(len(spoken))
    return pa.array(values, kind).take(pa.array(source, mask=missing))


def _tags(tags: Sequence[dict[str, str] | None]) -> pa.Array:
    kind = EVENTS.field("tags").type
    missing = np.array([one is None for one in tags], bool)
    if missing.all():
        return pa.nulls(len(tags), kind)
    lengths = np.array([0 if one is None else len(one) for one in tags], np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    names = [name for one in tags if one for name in one]
    values = [value for one in tags if one for value in one.values()]
    return pa.MapArray.from_arrays(
        pa.array(offsets, mask=np.append(missing, False)),
        pa.array(names, pa.string()),
        pa.array(values, pa.string()),
        kind,
    )


def _given(name: str) -> _Say:
    """Return what says a field as it is."""

    def say(data: Sequence[Any]) -> list[Any]:
        return [getattr(one, name) for one in data]

    return say


def _json(name: str) -> _Say:
    """Return what says JSON as it came; null where none did."""

    def say(data: Sequence[Any]) -> list[Any]:
        return [bytes(getattr(one, name)) or None for one in data]

    return say


def _detail(name: str, called: str) -> _Say:
    """Return what says a field as an object with that one member; null where it is not there."""

    def say(data: Sequence[Any]) -> list[Any]:
        told = [getattr(one, name) for one in data]
        return [None if one is None else _encode({called: one}) for one in told]

    return say


def _said_by(*sayings: tuple[type, _Say]) -> tuple[tuple[int, _Say], ...]:
    return tuple((_CODES[kind], say) for kind, say in sayings)


_reason: Final = _detail("reason", "reason")
#: What types of events say beyond what all say: of which column, and how.
_SAID: Final = {
    **{
        name: _said_by((ev.Created, _given(name)))
        for name in ("job_type", "owner", "bulk_id", "viewers", "writers")
    },
    "progress": _said_by((ev.Progress, _given("progress"))),
    "error": _said_by((ev.Retry, _json("error")), (ev.Failed, _json("error"))),
    "output": _said_by((ev.Completed, _json("output")), (ev.Failed, _json("output"))),
    "details": _said_by(
        (ev.Active, _detail("worker", "worker")),
        (ev.Progress, _detail("message", "message")),
        (ev.Retry, _detail("retry_at", "retryAt")),
        (ev.Cancelled, _reason),
        (ev.Expired, _reason),
    ),
}
