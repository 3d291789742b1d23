"""Packed trails, as a test wants them to be."""

from __future__ import annotations

from jobtrail.core.job import VERDICTS, TrailEntry
from jobtrail.core.states import STATES
from jobtrail.core.trail import TRAIL_LAYOUT


def packed(*entries: TrailEntry) -> bytes:
    """Return a trail of these entries: what `read_trail` takes apart."""
    return b"".join(
        TRAIL_LAYOUT.pack(
            key, offset, time, STATES.index(state), type_code << 4 | VERDICTS.index(verdict)
        )
        for key, offset, time, state, type_code, verdict in entries
    )
