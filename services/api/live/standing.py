"""Whether the projections get on: since when each partition stands still, and what that means.

A projector writes every few seconds that it lives. One that is gone, hangs or is started again and
again does not; nor does a partition move whose events nobody applies.
"""

from __future__ import annotations

import time
from time import monotonic

from jobtrail.contract import readiness
from projections.ports.read import Watermark
from services.api.live.buffer import Buffer


class Standing:
    """Watches the checkpoints.

    Args:
        buffer: Knows the end of the log.
        stalled_after: Seconds of standing still that are too long.
    """

    def __init__(self, buffer: Buffer, stalled_after: float) -> None:
        self._buffer = buffer
        self._stalled_after = stalled_after
        self._began = monotonic()
        self._known: Watermark | None = None
        self._moved: dict[int, float] = {}

    def note(self, held: Watermark) -> None:
        """Take in what the projections hold now."""
        known, end = self._known, self._buffer.end
        now = monotonic()
        for partition, offset in held.position.items():
            if (
                known is None
                or offset >= end(partition)
                or offset != known.position.get(partition)
                or partition not in self._moved
            ):
                self._moved[partition] = now
        self._known = held

    def still_for(self, partition: int) -> float:
        """Return for how many seconds a partition has had events to apply and has not moved."""
        known = self._known
        if known is None or known.position.get(partition, 0) >= self._buffer.end(partition):
            return 0.0
        return monotonic() - self._moved.get(partition, self._began)

    def silent_for(self, held: Watermark, partition: int) -> float:
        """Return for how many seconds no projector has said that it lives; infinite for never."""
        beat = held.beats.get(partition)
        return max(0.0, time.time() - beat / 1_000_000) if beat else float("inf")

    def reasons(self, held: Watermark) -> list[str]:
        """Return in words what keeps the projections from getting on."""
        limit = self._stalled_after
        found = readiness.stopped_at_holes(held.stopped)
        if again := held.recovering - held.stopped.keys():
            found.append(f"{readiness.named(again)}: being folded again from the log.")
        silent = {p: self.silent_for(held, p) for p in held.position}
        unserved = {p: seconds for p, seconds in silent.items() if seconds > limit}
        found += readiness.silent(unserved)
        still = {
            p: self.still_for(p)
            for p in held.position.keys() - held.stopped.keys() - unserved.keys()
        }
        found += readiness.without_progress({p: s for p, s in still.items() if s > limit})
        return found
