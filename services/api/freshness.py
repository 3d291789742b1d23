"""How fresh an answer is: the headers that say so, and the one by which a client asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta

from jobtrail import position as parsed
from jobtrail.errors import UsageError
from jobtrail.position import PATTERN, format_position, parse_position
from projections.reading import Held
from services.api.buffer import UNKNOWN, Buffer
from services.api.coverage import Pulse
from services.api.problems import Fault, invalid

#: What a position looks like.
Position = Annotated[str, Meta(pattern=PATTERN, examples=["3:1043"])]
POSITION: Final = "Jobtrail-Position"
LAG: Final = "Jobtrail-Lag"
#: The lag while the log does not answer.
_UNKNOWN: Final = "unknown"
#: Seconds by which clocks of producers may be ahead.
_CLOCKS: Final = 60.0


class Freshness:
    """Says how fresh answers are.

    Args:
        buffer: Knows the end of the log.
        pulse: Whether that is so at the moment.
    """

    def __init__(self, buffer: Buffer, pulse: Pulse) -> None:
        self._buffer = buffer
        self._pulse = pulse
        self._last: tuple[Mapping[int, int], Mapping[int, Sequence[int]], str] = ({}, {}, "")
        #: What was held, at which of the log's ends, and the same with the tail.
        self._with_tail: tuple[Held | None, int, Held] = (None, 0, Held({}, {}, frozenset()))
        #: What was level with the log, at which of its ends, and its headers.
        self._level: tuple[Held | None, int, dict[str, str]] = (None, 0, {})

    def headers(self, held: Held) -> dict[str, str]:
        """Return the headers of an answer that holds this much of the log."""
        level, turn, headers = self._level
        if held is level and turn == self._buffer.turn and self._pulse.is_up:
            return headers.copy()
        headers = {POSITION: self._as_text(held.position, held.last)}
        lag = self.lag(held)
        headers[LAG] = _UNKNOWN if lag is None else f"{lag:.3f}" if lag else "0"
        if lag == 0:
            self._level = (held, self._buffer.turn, headers.copy())
        return headers

    def lag(self, held: Held) -> float | None:
        """Return by how many seconds the projections are behind the log.

        Returns:
            0 when they are level with it, None while that can't be told: the log has not answered
            for some time, or says impossible times.
        """
        if not self._buffer.followed or not self._pulse.is_up:
            return None
        since = self._buffer.behind_since(held)
        if since is None:
            return 0.0
        lag = time.time() - since / 1_000_000
        if since == UNKNOWN or lag < -_CLOCKS:
            return None
        # Less than a millisecond is still behind.
        return max(lag, 0.001)

    def with_tail(self, held: Held) -> Held:
        """Return what an answer holds that was read now and has the tail laid over it."""
        buffer = self._buffer
        known, turn, whole = self._with_tail
        if held is known and turn == buffer.turn:
            # The same as the answer before: so are its headers.
            return whole
        position = dict(held.position)
        last = dict(held.last)
        for partition, offset in held.position.items():
            end = buffer.end(partition)
            if end > offset and buffer.covers(partition, offset):
                position[partition] = end
                if (record := buffer.last_record(partition)) is not None:
                    last[partition] = record
        whole = held._replace(position=position, last=last)
        self._with_tail = (held, buffer.turn, whole)
        return whole

    def at_end(self, position: Mapping[int, int]) -> dict[str, str]:
        """Return the headers of an answer whose jobs the tail has kept up with, up to there."""
        lag = "0" if self._pulse.is_up else _UNKNOWN
        buffer = self._buffer
        marks = {p: buffer.last(p, end) for p, end in position.items()}
        text = self._as_text(position, {p: found for p, found in marks.items() if found})
        return {POSITION: text, LAG: lag}

    def _as_text(self, position: Mapping[int, int], last: Mapping[int, Sequence[int]]) -> str:
        # Most answers hold the same as the one before.
        if position != self._last[0] or last != self._last[1]:
            self._last = (position, last, marked(position, last))
        return self._last[2]


def marked(position: Mapping[int, int], last: Mapping[int, Sequence[int]]) -> str:
    """Return the text form of a position, with marks where they are known.

    Where no record lies right before it, as behind the marker of a transaction, it is moved back
    to behind the last one: that says no more than is true, and can be proven.

    Args:
        position: Per partition the offset before which everything is held.
        last: Per partition offset and mark of the last record before that.
    """
    places: dict[int, int] = {}
    marks: dict[int, int] = {}
    for partition, offset in position.items():
        known = last.get(partition)
        if known is not None and known[0] < offset:
            places[partition], marks[partition] = known[0] + 1, known[1]
        else:
            places[partition] = offset
    return format_position(places, marks)


def wanted_position(header: str, partitions: int, name: str = POSITION) -> parsed.Position:
    """Read the position that a client wants a read to hold, or to go on from.

    Args:
        header: The header's value.
        partitions: How many partitions the log has.
        name: The header's name.

    Raises:
        Problem: 400 where it can't be a position in this log.
    """
    wanted = read_position(header, name)
    check_partitions(wanted, partitions, name)
    return wanted


def read_position(header: str, name: str = POSITION) -> parsed.Position:
    """Read a position that is to be of any log.

    Args:
        header: The header's value.
        name: The header's name.

    Raises:
        Problem: 400 where it is no position.
    """
    try:
        return parse_position(header)
    except UsageError as error:
        raise invalid([Fault("parameter", name, str(error))]) from None


def check_partitions(position: Mapping[int, int], partitions: int, name: str) -> None:
    """Check that a position names no partition that the log has not.

    Raises:
        Problem: 400 where it does.
    """
    beyond = [partition for partition in position if partition >= partitions]
    if beyond:
        detail = f"The log has {partitions} partitions; found partition {beyond[0]}."
        raise invalid([Fault("parameter", name, detail)])
