"""What this process knows of the log's end: whether the log answers, and what is surely not there.

That a job is not found says nothing while the part of the log that it would lie in is not known to
its end: the projections may be behind, and the tail may have begun later. Only where the tail has
every record from the checkpoint on, and the log has just answered, is absence an answer. That is
told by the partition alone, so a job of somebody else can't be told from one that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from projections.ports.read import Watermark
from services.api.limits.limits import Timeouts
from services.api.live.buffer import Buffer


class Pulse:
    """When the log answered the tail last.

    Args:
        timeouts: For how long that counts.
    """

    __slots__ = ("_certain", "_heard", "_silence")

    def __init__(self, timeouts: Timeouts) -> None:
        self._silence = timeouts.silence
        self._certain = timeouts.certain
        self._heard = float("-inf")

    def beat(self, silent: float) -> None:
        """Take in that the log answered for every partition, so many seconds ago."""
        self._heard = monotonic() - silent

    def stop(self) -> None:
        """Take in that the connection to the log was lost."""
        self._heard = float("-inf")

    def silent_for(self) -> float:
        """Return for how many seconds the log has not answered; infinite where it never has."""
        return max(0.0, monotonic() - self._heard)

    @property
    def is_up(self) -> bool:
        """Whether the log answered lately."""
        return monotonic() - self._heard < self._silence

    @property
    def is_certain(self) -> bool:
        """Whether it answered so lately that what it did not bring is not there."""
        return monotonic() - self._heard < self._certain


class Coverage:
    """Tells where absence is an answer.

    Args:
        buffer: What the tail has.
        pulse: Whether the log answers.
        has_more: Tells of a partition whether records of it arrived that the buffer has not yet.
    """

    def __init__(self, buffer: Buffer, pulse: Pulse, has_more: Callable[[int], bool]) -> None:
        self._buffer = buffer
        self._pulse = pulse
        self._has_more = has_more

    def is_level(self, partition: int) -> bool:
        """Tell whether the buffer has all of a partition that the log is known to have."""
        return self._pulse.is_certain and not self._has_more(partition)

    def knows(self, held: Watermark, partitions: Iterable[int]) -> bool:
        """Tell whether what is neither in the projections nor in the tail is not there.

        Args:
            held: By the projections.
            partitions: Where it would be.
        """
        if not self._pulse.is_certain:
            return False
        covers, position, recovering = self._buffer.covers, held.position, held.recovering
        return all(
            p not in recovering and covers(p, position[p]) and not self._has_more(p)
            for p in partitions
        )

    def end(self, held: Watermark) -> dict[int, int] | None:
        """Return the log's end per partition; None where it is not known of all of them."""
        buffer = self._buffer
        if not all(buffer.follows(p) and self.is_level(p) for p in held.position):
            return None
        return buffer.position
