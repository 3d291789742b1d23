"""How fresh an answer is: the position and lag in its headers, and positions that clients send."""

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

#: A position in its text form.
Position = Annotated[str, Meta(pattern=PATTERN, examples=["3:1043"])]
POSITION: Final = "Jobtrail-Position"
LAG: Final = "Jobtrail-Lag"
#: The lag while the log does not answer.
_UNKNOWN: Final = "unknown"
#: Seconds by which the clock of a producer may be ahead.
_CLOCKS: Final = 60.0
#: Seconds for which headers with a lag of 0 are used again: to compute the lag takes some
#: microseconds, too much for every request.
_REUSE: Final = 0.01


class Freshness:
    """Makes the headers that say how fresh an answer is.

    Args:
        buffer: Knows the end of the log.
        liveness: Tells whether the log answers.
        has_pending: Tells whether records of a partition have arrived that are not in the buffer
            yet.
        reuse: Seconds for which headers with a lag of 0 are used again.
    """

    def __init__(
        self,
        buffer: Buffer,
        liveness: LogLiveness,
        has_pending: Callable[[int], bool],
        *,
        reuse: float = _REUSE,
    ) -> None:
        self._buffer = buffer
        self._liveness = liveness
        self._has_more = has_pending
        self._reuse = reuse
        self._last: tuple[Mapping[int, int], Mapping[int, Sequence[int]], str] = ({}, {}, "")
        #: A watermark, the version of the buffer, and that watermark with the tail.
        self._with_tail: tuple[Watermark | None, int, Watermark] = (
            None,
            0,
            Watermark({}, {}, frozenset()),
        )
        #: A watermark without lag, the version of the buffer, until when its headers are used, and
        #: these.
        self._level: tuple[Watermark | None, int, float, dict[str, str]] = (None, 0, 0.0, {})

    def headers(self, watermark: Watermark) -> dict[str, str]:
        """Return the headers of an answer with this watermark."""
        level, version, until, headers = self._level
        if (
            watermark is level
            and version == self._buffer.version
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
            until = time.monotonic() + self._reuse
            self._level = (watermark, self._buffer.version, until, headers.copy())
        return headers

    def lag(self, watermark: Watermark) -> float | None:
        """Return by how many seconds the projections lag the log.

        Records that the tail has not read yet count from when it had last read all of them.

        Returns:
            0 without a lag. None if it is not known: the log has not answered for some time, or has
            impossible timestamps.
        """
        if not self._buffer.followed or not self._liveness.is_up:
            return None
        since = self._buffer.lagging_since(watermark)
        instants = self._tail_since(watermark.position)
        if since is not None:
            instants.append(since)
        return self._lag_since(instants)

    def _tail_since(self, partitions: Iterable[int]) -> list[int]:
        """Return when the tail had last read each partition to its end, of those where it lags."""
        buffer, has_pending = self._buffer, self._has_more
        return [buffer.caught_up_at(p) for p in partitions if has_pending(p) and buffer.follows(p)]

    def _lag_since(self, instants: Sequence[int]) -> float | None:
        """Return the lag in seconds since the first of some instants in microseconds, or None."""
        if not instants:
            return 0.0
        since = min(instants)
        lag = time.time() - since / 1_000_000
        if since == UNKNOWN or lag < -_CLOCKS:
            return None
        # Less than a millisecond is a lag, too.
        return max(lag, 0.001)

    def with_tail(self, watermark: Watermark) -> Watermark:
        """Return the watermark of an answer that is read now with the tail's records folded on."""
        buffer = self._buffer
        before, version, with_tail = self._with_tail
        if watermark is before and version == buffer.version:
            # The same object as before, so that its headers are found again.
            return with_tail
        position = dict(watermark.position)
        last = dict(watermark.last)
        for partition, offset in watermark.position.items():
            end = buffer.end(partition)
            if end > offset and buffer.covers(partition, offset):
                position[partition] = end
                if (record := buffer.last_record(partition)) is not None:
                    last[partition] = record
        with_tail = watermark._replace(position=position, last=last)
        self._with_tail = (watermark, buffer.version, with_tail)
        return with_tail

    def at_end(self, position: Mapping[int, int]) -> dict[str, str]:
        """Return the headers of an answer at a position that the tail has reached."""
        buffer = self._buffer
        lag = self._lag_since(self._tail_since(position)) if self._liveness.is_up else None
        marks = {p: buffer.last(p, end) for p, end in position.items()}
        text = self._as_text(position, {p: found for p, found in marks.items() if found})
        return {POSITION: text, LAG: _in_seconds(lag)}

    def _as_text(self, position: Mapping[int, int], last: Mapping[int, Sequence[int]]) -> str:
        # Most answers have the position of the one before.
        if position != self._last[0] or last != self._last[1]:
            self._last = (position, last, marked(position, last))
        return self._last[2]


def _in_seconds(lag: float | None) -> str:
    """Return a lag in the form of the header."""
    return _UNKNOWN if lag is None else f"{lag:.3f}" if lag else "0"


def marked(position: Mapping[int, int], last: Mapping[int, Sequence[int]]) -> str:
    """Return the text form of a position, with the marks that are known.

    An offset without a record right before it, as after the marker of a transaction, is moved back
    to the offset after the last record. That claims no more than is true, and can be proven.

    Args:
        position: Per partition the offset before which every record counts.
        last: Per partition offset and mark of the last record before that.
    """
    places: dict[int, int] = {}
    marks: dict[int, int] = {}
    for partition, offset in position.items():
        record = last.get(partition)
        if record is not None and record[0] < offset:
            places[partition], marks[partition] = record[0] + 1, record[1]
        else:
            places[partition] = offset
    return format_position(places, marks)


def wanted_position(header: str, partitions: int, name: str = POSITION) -> parsed.Position:
    """Parse the position that a read has to reach, or from which a feed resumes.

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
    """Parse a position, with any number of partitions.

    Args:
        header: The header's value.
        name: The header's name.

    Raises:
        Problem: 400 where it is not a position.
    """
    try:
        return parse_position(header)
    except UsageError as error:
        raise invalid([RequestFault("parameter", name, str(error))]) from None


def check_partitions(position: Mapping[int, int], partitions: int, name: str) -> None:
    """Check that the log has all partitions that a position names.

    Raises:
        Problem: 400 where it does not.
    """
    beyond = [partition for partition in position if partition >= partitions]
    if beyond:
        detail = f"The log has {partitions} partitions; found partition {beyond[0]}."
        raise invalid([RequestFault("parameter", name, detail)])
