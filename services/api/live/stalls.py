"""Finds partitions of the projections that are stalled, and says why.

A projector writes a heartbeat every few seconds. One that is gone, hangs or restarts again and
again writes none. A partition also stalls if its checkpoint does not move although it has events.
"""

from __future__ import annotations

import time
from time import monotonic

from jobtrail.contract import readiness
from projections.ports.read import Watermark
from services.api.live.buffer import Buffer


class Stalls:
    """Watches the checkpoints.

    Args:
        buffer: Knows the end of the log.
        stalled_after: Seconds without progress, or without a heartbeat, that count as a stall.
    """

    def __init__(self, buffer: Buffer, stalled_after: float) -> None:
        self._buffer = buffer
        self._stalled_after = stalled_after
        self._began = monotonic()
        self._last: Watermark | None = None
        self._moved: dict[int, float] = {}

    def note(self, watermark: Watermark) -> None:
        """Note the watermark of the projections now."""
        last, end = self._last, self._buffer.end
        now = monotonic()
        for partition, offset in watermark.position.items():
            if (
                last is None
                or offset >= end(partition)
                or offset != last.position.get(partition)
                or partition not in self._moved
            ):
                self._moved[partition] = now
        self._last = watermark

    def still_for(self, partition: int) -> float:
        """Return the seconds for which a partition has had events to apply and has not moved."""
        last = self._last
        if last is None or last.position.get(partition, 0) >= self._buffer.end(partition):
            return 0.0
        return monotonic() - self._moved.get(partition, self._began)

    def silent_for(self, watermark: Watermark, partition: int) -> float:
        """Return the seconds since a projector's last heartbeat; infinite if there was none."""
        beat = watermark.beats.get(partition)
        return max(0.0, time.time() - beat / 1_000_000) if beat else float("inf")

    def reasons(self, watermark: Watermark) -> list[str]:
        """Return in words why partitions are stalled; empty if none is."""
        limit = self._stalled_after
        found = readiness.stopped_at_holes(watermark.stopped)
        if again := watermark.recovering - watermark.stopped.keys():
            found.append(f"{readiness.named(again)}: being folded again from the log.")
        silent = {p: self.silent_for(watermark, p) for p in watermark.position}
        unserved = {p: seconds for p, seconds in silent.items() if seconds > limit}
        found += readiness.silent(unserved)
        still = {
            p: self.still_for(p)
            for p in watermark.position.keys() - watermark.stopped.keys() - unserved.keys()
        }
        found += readiness.without_progress({p: s for p, s in still.items() if s > limit})
        return found
