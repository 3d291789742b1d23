"""Packed trails, as a test wants them to be."""

from __future__ import annotations

from jobtrail.core.states import STATES
from jobtrail.core.trail import TRAIL_LAYOUT, TrailEntry, entry_code


def packed(*entries: TrailEntry) -> bytes:
    """Return a trail of these entries: what `read_trail` takes apart."""
    return b"".join(
        TRAIL_LAYOUT.pack(key, offset, time, STATES.index(state), entry_code(type_code, verdict))
        for key, offset, time, state, type_code, verdict in entries
    )
