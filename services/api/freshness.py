"""How fresh an answer is: the headers that say so, and the one by which a client asks for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from jobtrail.errors import UsageError
from jobtrail.position import PATTERN, format_position, parse_position
from projections.reading import Held
from services.api.buffer import Buffer
from services.api.problems import Fault, invalid

#: What a position looks like.
Position = Annotated[str, Meta(pattern=PATTERN, examples=["3:1043"])]
POSITION: Final = "Jobtrail-Position"
LAG: Final = "Jobtrail-Lag"


class Freshness:
    """Says how fresh answers are.

    Args:
        buffer: Knows the end of the log.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._last: tuple[Mapping[int, int], str] = ({}, "")
        #: What was level with the log, at which of its ends, and its headers.
        self._level: tuple[Held | None, int, dict[str, str]] = (None, 0, {})

    def headers(self, held: Held) -> dict[str, str]:
        """Return the headers of an answer that holds this much of the log."""
        level, turn, headers = self._level
        if held is level and turn == self._buffer.turn:
            return headers.copy()
        headers = {POSITION: self._as_text(held.position)}
        lag = self.lag(held)
        if lag is not None:
            headers[LAG] = f"{lag:.3f}" if lag else "0"
        if lag == 0:
            self._level = (held, self._buffer.turn, headers.copy())
        return headers

    def lag(self, held: Held) -> float | None:
        """Return by how many seconds the projections are behind the log.

        Returns:
            0 when they are level with it, None when its end is not known yet.
        """
        if not self._buffer.followed:
            return None
        since = self._buffer.behind_since(held)
        if since is None:
            return 0.0
        # Less than a millisecond is still behind.
        return max(time.time() - since / 1_000_000, 0.001)

    def with_tail(self, held: Held) -> Held:
        """Return what an answer holds that was read now and has the tail laid over it."""
        buffer = self._buffer
        position = {
            partition: max(offset, buffer.end(partition))
            if buffer.covers(partition, offset)
            else offset
            for partition, offset in held.position.items()
        }
        return held._replace(position=position)

    def at_end(self) -> dict[str, str]:
        """Return the headers of an answer whose jobs the tail has kept up with."""
        return {POSITION: self._as_text(self._buffer.position), LAG: "0"}

    def _as_text(self, position: Mapping[int, int]) -> str:
        # Most answers hold the same as the one before.
        if position != self._last[0]:
            self._last = (position, format_position(position))
        return self._last[1]


def wanted_position(header: str | None, partitions: int, name: str = POSITION) -> dict[int, int]:
    """Read the position that a client wants a read to hold, or to go on from.

    Args:
        header: The header's value, None where there is none.
        partitions: How many partitions the log has.
        name: The header's name.

    Raises:
        Problem: 400 where it can't be a position in this log.
    """
    if header is None:
        return {}
    try:
        wanted = parse_position(header)
    except UsageError as error:
        raise invalid([Fault("parameter", name, str(error))]) from None
    check_partitions(wanted, partitions, name)
    return wanted


def check_partitions(position: Mapping[int, int], partitions: int, name: str) -> None:
    """Check that a position names no partition that the log has not.

    Raises:
        Problem: 400 where it does.
    """
    beyond = [partition for partition in position if partition >= partitions]
    if beyond:
        detail = f"The log has {partitions} partitions; found partition {beyond[0]}."
        raise invalid([Fault("parameter", name, detail)])
