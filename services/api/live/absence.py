"""Whether the log answers, and whether a job that was not found is really absent.

A lookup that finds nothing proves nothing while this process may lack records of the job's
partition: the projections may lag, and the tail may have started later than their checkpoint. Only
where the tail has every record from the checkpoint on, and the log has answered recently, is the
job certainly absent. Only the partition decides that, never the job, so that a job of another user
can't be told from one that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from projections.ports.read import Watermark
from services.api.limits.limits import Timeouts
from services.api.live.buffer import Buffer


class LogLiveness:
    """When the log last answered the tail.

    Args:
        timeouts: For how long an answer counts.
    """

    __slots__ = ("_certain", "_heard", "_silence")

    def __init__(self, timeouts: Timeouts) -> None:
        self._silence = timeouts.silence
        self._certain = timeouts.certain
        self._heard = float("-inf")

    def note_answer(self, silent: float) -> None:
        """Note that the log answered for every partition `silent` seconds ago."""
        self._heard = monotonic() - silent

    def note_lost(self) -> None:
        """Note that the connection to the log was lost."""
        self._heard = float("-inf")

    def silent_for(self) -> float:
        """Return the seconds since the log last answered; infinite if it never has."""
        return max(0.0, monotonic() - self._heard)

    @property
    def is_up(self) -> bool:
        """Whether the log answered within `Timeouts.silence`."""
        return monotonic() - self._heard < self._silence

    @property
    def is_current(self) -> bool:
        """Whether it answered within `Timeouts.certain`: the log holds no more than it has sent."""
        return monotonic() - self._heard < self._certain


class AbsenceCheck:
    """Tells whether a job that was not found is certainly absent.

    Args:
        buffer: The records that the tail has read.
        liveness: When the log last answered.
        has_pending: Tells whether records of a partition have arrived that are not in the buffer
            yet.
    """

    def __init__(
        self, buffer: Buffer, liveness: LogLiveness, has_pending: Callable[[int], bool]
    ) -> None:
        self._buffer = buffer
        self._liveness = liveness
        self._has_more = has_pending

    def has_all_of(self, partition: int) -> bool:
        """Tell whether the tail has read a partition up to the log's end."""
        return self._liveness.is_current and not self._has_more(partition)

    def is_certain(self, watermark: Watermark, partitions: Iterable[int]) -> bool:
        """Tell whether a job that neither the projections nor the tail have is absent from the log.

        Args:
            watermark: Of the projections.
            partitions: Those in which the job could be.
        """
        if not self._liveness.is_current:
            return False
        covers, position, recovering = self._buffer.covers, watermark.position, watermark.recovering
        return all(
            p not in recovering and covers(p, position[p]) and not self._has_more(p)
            for p in partitions
        )

    def end(self, watermark: Watermark) -> dict[int, int] | None:
        """Return the log's end per partition; None unless the tail has read all of them to it."""
        buffer = self._buffer
        if not all(buffer.follows(p) and self.has_all_of(p) for p in watermark.position):
            return None
        return buffer.position
