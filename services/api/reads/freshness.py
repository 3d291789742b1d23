"""How fresh an answer is: the headers that say so, and the one by which a client asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta

from jobtrail.core import position as parsed
from jobtrail.core.errors import UsageError
from jobtrail.core.position import PATTERN, format_position, parse_position
from projections.ports.read import Watermark
from services.api.live.absence import LogLiveness
from services.api.live.buffer import UNKNOWN, Buffer
from services.api.problems.problems import RequestFault, invalid

#: What a position looks like.
Position = Annotated[str, Meta(pattern=PATTERN, examples=["3:1043"])]
POSITION: Final = "Jobtrail-Position"
LAG: Final = "Jobtrail-Lag"
#: The lag while the log does not answer.
_UNKNOWN: Final = "unknown"
#: Seconds by which clocks of producers may be ahead.
_CLOCKS: Final = 60.0
#: Seconds between two looks whether the tail has more to take in, while all was level: to look
#: takes some microseconds, which not every request is to pay.
_LOOK_AGAIN: Final = 0.01


class Freshness:
    """Says how fresh answers are.

    Args:
        buffer: Knows the end of the log.
        liveness: Whether that is so at the moment.
        has_pending: Tells of a partition whether records of it arrived that the buffer has not yet.
        look_again: Seconds for which it is taken to have none, once it had none.
    """

    def __init__(
        self,
        buffer: Buffer,
        liveness: LogLiveness,
        has_pending: Callable[[int], bool],
        *,
        look_again: float = _LOOK_AGAIN,
    ) -> None:
        self._buffer = buffer
        self._liveness = liveness
        self._has_more = has_pending
        self._look_again = look_again
        self._last: tuple[Mapping[int, int], Mapping[int, Sequence[int]], str] = ({}, {}, "")
        #: What was held, at which of the log's ends, and the same with the tail.
        self._with_tail: tuple[Watermark | None, int, Watermark] = (
            None,
            0,
            Watermark({}, {}, frozenset()),
        )
        #: What was level with the log, at which of its ends, until when that is believed, and its
        #: headers.
        self._level: tuple[Watermark | None, int, float, dict[str, str]] = (None, 0, 0.0, {})

    def headers(self, watermark: Watermark) -> dict[str, str]:
        """Return the headers of an answer that holds this much of the log."""
        level, turn, until, headers = self._level
        if (
            watermark is level
            and turn == self._buffer.version
            and time.monotonic() < until
            and self._liveness.is_up
        ):
            return headers.copy()
        lag = self.lag(watermark)
        headers = {
            POSITION: self._as_text(watermark.position, watermark.last),
            LAG: _in_seconds(lag),
        }
        if lag == 0:
            until = time.monotonic() + self._look_again
            self._level = (watermark, self._buffer.version, until, headers.copy())
        return headers

    def lag(self, watermark: Watermark) -> float | None:
        """Return by how many seconds the projections are behind the log.

        Of what the tail has not taken in yet nothing is known but that it came after the tail had
        all that was there.

        Returns:
            0 when they are level with it, None while that can't be told: the log has not answered
            for some time, or says impossible times.
        """
        if not self._buffer.followed or not self._liveness.is_up:
            return None
        behind = self._buffer.lagging_since(watermark)
        instants = self._tail_since(watermark.position)
        if behind is not None:
            instants.append(behind)
        return self._lag_since(instants)

    def _tail_since(self, partitions: Iterable[int]) -> list[int]:
        """Return since when the tail itself has not had all, of each partition where it has not."""
        buffer, has_pending = self._buffer, self._has_more
        return [buffer.caught_up_at(p) for p in partitions if has_pending(p) and buffer.follows(p)]

    def _lag_since(self, instants: Sequence[int]) -> float | None:
        """Return the lag by since when things lag, in microseconds; None where nobody can tell."""
        if not instants:
            return 0.0
        since = min(instants)
        lag = time.time() - since / 1_000_000
        if since == UNKNOWN or lag < -_CLOCKS:
            return None
        # Less than a millisecond is still behind.
        return max(lag, 0.001)

    def with_tail(self, watermark: Watermark) -> Watermark:
        """Return what an answer holds that was read now and has the tail laid over it."""
        buffer = self._buffer
        known, turn, whole = self._with_tail
        if watermark is known and turn == buffer.version:
            # The same as the answer before: so are its headers.
            return whole
        position = dict(watermark.position)
        last = dict(watermark.last)
        for partition, offset in watermark.position.items():
            end = buffer.end(partition)
            if end > offset and buffer.covers(partition, offset):
                position[partition] = end
                if (record := buffer.last_record(partition)) is not None:
                    last[partition] = record
        whole = watermark._replace(position=position, last=last)
        self._with_tail = (watermark, buffer.version, whole)
        return whole

    def at_end(self, position: Mapping[int, int]) -> dict[str, str]:
        """Return the headers of an answer whose jobs the tail has kept up with, up to there."""
        buffer = self._buffer
        lag = self._lag_since(self._tail_since(position)) if self._liveness.is_up else None
        marks = {p: buffer.last(p, end) for p, end in position.items()}
        text = self._as_text(position, {p: found for p, found in marks.items() if found})
        return {POSITION: text, LAG: _in_seconds(lag)}

    def _as_text(self, position: Mapping[int, int], last: Mapping[int, Sequence[int]]) -> str:
        # Most answers hold the same as the one before.
        if position != self._last[0] or last != self._last[1]:
            self._last = (position, last, marked(position, last))
        return self._last[2]


def _in_seconds(lag: float | None) -> str:
    """Return a lag as the header has it."""
    return _UNKNOWN if lag is None else f"{lag:.3f}" if lag else "0"


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
        raise invalid([RequestFault("parameter", name, str(error))]) from None


def check_partitions(position: Mapping[int, int], partitions: int, name: str) -> None:
    """Check that a position names no partition that the log has not.

    Raises:
        Problem: 400 where it does.
    """
    beyond = [partition for partition in position if partition >= partitions]
    if beyond:
        detail = f"The log has {partitions} partitions; found partition {beyond[0]}."
        raise invalid([RequestFault("parameter", name, detail)])
