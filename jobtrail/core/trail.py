"""A job's packed trail: its format, what the codes in it mean, and every walk over it.

A trail has one entry per event of the job, in the order of the log. Which entries count is decided
here and nowhere else: an applied event changed the job, and a `job.created` may have described it
(said what the job is and whose) even where it came late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import chain
from struct import Struct as Layout
from typing import Final, NamedTuple

from jobtrail.core.events import TYPE_NAMES
from jobtrail.core.states import STATES, State

#: Key of the event's id, offset, time, state, code: 26 bytes, little endian.
TRAIL_LAYOUT: Final = Layout("<8sqqBB")
ENTRY_BYTES: Final = TRAIL_LAYOUT.size
KEY_BYTES: Final = 8
#: A chunk is stored on its own, in memory and in a store: with each event fewer entries than this
#: are copied and written.
CHUNK_ENTRIES: Final = 64
CHUNK_BYTES: Final = CHUNK_ENTRIES * ENTRY_BYTES
#: Before every instant.
NEVER: Final = -(2**63)
STATE_CODES: Final = {state: code for code, state in enumerate(STATES)}


class Verdict(StrEnum):
    """What the fold made of an event. Append only: the order is that of the codes in a trail."""

    #: It changed the job.
    APPLIED = "applied"
    #: The job has seen an event of this id.
    DUPLICATE = "duplicate"
    #: It belongs to an attempt that is over, or is a `job.created` that came after the fact.
    LATE = "late"
    #: The table has no such transition.
    NOT_ALLOWED = "not-allowed"
    #: Its sender is bound to sources that have no part in the job.
    FOREIGN = "foreign"


VERDICTS: Final = tuple(Verdict)

# An entry's code is the type's number * 16 + the verdict's number.
_TYPE_SHIFT: Final = 4
_VERDICT_MASK: Final = 15
_APPLIED: Final = VERDICTS.index(Verdict.APPLIED)
_CREATED: Final = TYPE_NAMES.index("job.created")
_NEVER_DESCRIBES: Final = frozenset({Verdict.DUPLICATE, Verdict.NOT_ALLOWED, Verdict.FOREIGN})


def entry_code(type_code: int, verdict: Verdict) -> int:
    """Return the last byte of a trail's entry.

    Args:
        type_code: Index of the event's type in `events.EVENT_TYPES`.
        verdict: Of the fold.
    """
    return type_code << _TYPE_SHIFT | VERDICTS.index(verdict)


#: The codes of events that changed their job. As sets, since a look-up takes half the time of a
#: call, and every event passes here.
APPLIED_CODES: Final = frozenset(code for code in range(256) if code & _VERDICT_MASK == _APPLIED)
#: The codes of events that may have said what their job is and whose.
DESCRIBING_CODES: Final = frozenset(
    entry_code(_CREATED, verdict) for verdict in VERDICTS if verdict not in _NEVER_DESCRIBES
)
#: The codes of events that count for what their job was: the rest changed nothing.
_COUNTING_CODES: Final = APPLIED_CODES | DESCRIBING_CODES


class TrailEntry(NamedTuple):
    """One event in a job's trail."""

    key: bytes
    offset: int
    #: The event's time, microseconds since the epoch.
    time: int
    #: The job's state after it.
    state: State
    #: Index into `events.EVENT_TYPES`.
    type_code: int
    verdict: Verdict


def read_trail(trail: bytes) -> list[TrailEntry]:
    """Unpack a trail, oldest event first."""
    return [
        TrailEntry(
            key, offset, time, STATES[state], code >> _TYPE_SHIFT, VERDICTS[code & _VERDICT_MASK]
        )
        for key, offset, time, state, code in TRAIL_LAYOUT.iter_unpack(trail)
    ]


def entry_at(trail: bytes, offset: int) -> TrailEntry | None:
    """Return the entry of the event at an offset of the log; None where the trail has none."""
    found = trail_page(trail, offset, 1)
    return found[0] if found and found[0].offset == offset else None


def trail_page(trail: bytes, offset: int, size: int) -> list[TrailEntry]:
    """Unpack a part of a trail; the time does not grow with the trail's length.

    Args:
        trail: Packed; its entries are in the order of their offsets.
        offset: The first one wanted, whether an entry has it or not.
        size: The most entries.
    """
    begin = start_of(trail, offset)
    return read_trail(trail[begin : begin + size * ENTRY_BYTES])


def start_of(trail: bytes, offset: int) -> int:
    """Return the byte at which the first entry of an offset of the log or a later one begins."""
    low, high = 0, len(trail) // ENTRY_BYTES
    while low < high:
        middle = (low + high) // 2
        if TRAIL_LAYOUT.unpack_from(trail, middle * ENTRY_BYTES)[1] < offset:
            low = middle + 1
        else:
            high = middle
    return low * ENTRY_BYTES


def trail_has(trail: bytes, key: bytes) -> bool:
    """Tell whether packed entries contain an event with this key."""
    return find_key(trail, key, ENTRY_BYTES)


def find_key(content: bytes | bytearray, key: bytes, width: int) -> bool:
    """Tell whether any piece of content begins with a key.

    Args:
        content: Pieces of equal length.
        key: Of `KEY_BYTES`.
        width: Bytes of a piece.
    """
    at = content.find(key)
    while at >= 0:
        if at % width == 0:
            return True
        at = content.find(key, at + 1)
    return False


def keys_of(trail: bytes) -> list[bytes]:
    """Return the keys of packed entries, in order."""
    return [key for key, *_ in TRAIL_LAYOUT.iter_unpack(trail)]


def raw_entries(trail: bytes) -> Iterator[tuple[bytes, int, int, int, int]]:
    """Unpack entries as they are stored: key, offset, time, state's number, code."""
    return TRAIL_LAYOUT.iter_unpack(trail)


def offsets_of(trail: bytes) -> list[int]:
    """Return the offsets of packed entries, in order."""
    return [offset for _key, offset, *_ in TRAIL_LAYOUT.iter_unpack(trail)]


def first_place(trail: bytes) -> tuple[int, int]:
    """Return the offset and the time of the first entry of a trail that has one."""
    _key, offset, time, _state, _code = TRAIL_LAYOUT.unpack_from(trail)
    return offset, time


def effective_time(trail: bytes) -> int:
    """Return the effective time of a job's last applied event; `NEVER` for an empty trail."""
    latest = NEVER
    for _key, _offset, time, _state, code in TRAIL_LAYOUT.iter_unpack(trail):
        if time > latest and code in APPLIED_CODES:
            latest = time
    return latest


#: The first and the last offset of an event that may have described a job; None for none.
DescriptionSpan = tuple[int | None, int | None]


def describing_offsets(trail: bytes) -> list[int]:
    """Return the offsets of the events of a trail that may have described the job, in order."""
    return [
        offset
        for _key, offset, _time, _state, code in TRAIL_LAYOUT.iter_unpack(trail)
        if code in DESCRIBING_CODES
    ]


def description_span(trail: bytes) -> DescriptionSpan:
    """Return where a packed trail may describe the job for the first and for the last time."""
    found = describing_offsets(trail)
    return (found[0], found[-1]) if found else (None, None)


def merged_spans(one: DescriptionSpan, other: DescriptionSpan) -> DescriptionSpan:
    """Return the span of two consecutive parts of a trail."""
    found = [offset for offset in (*one, *other) if offset is not None]
    return (found[0], found[-1]) if found else (None, None)


#: (offset, the event's time) of an event that counts.
Event = tuple[int, int]


class Prefix(NamedTuple):
    """The part of a trail before a cut, where there is any."""

    #: The job's state then, and the time of its last change.
    state: State
    updated_at: int
    #: Offset and time of the events that made it what it was.
    events: tuple[Event, ...]
    #: Whether nothing after the cut has changed the job.
    complete: bool


def prefix_before(trail: Iterable[bytes], end: int, instant: int | None) -> Prefix | None:
    """Return the part of a trail that counts before a cut; None where there is none.

    Args:
        trail: In packed pieces; no more of them is taken than is needed.
        end: The offset before which events count. Unused where there is an instant.
        instant: The latest time that counts, in microseconds since the epoch.
    """
    last_state, updated_at, complete = 0, 0, True
    events: list[Event] = []
    entries = chain.from_iterable(map(TRAIL_LAYOUT.iter_unpack, trail))
    for _key, offset, time, state, code in entries:
        if code not in _COUNTING_CODES:
            continue
        applied = code in APPLIED_CODES
        if offset >= end if instant is None else (applied and time > instant):
            complete = False
            break
        events.append((offset, time))
        last_state = state
        if applied:
            updated_at = time
    if not events:
        return None
    return Prefix(STATES[last_state], updated_at, tuple(events), complete)
