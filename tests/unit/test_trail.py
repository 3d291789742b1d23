"""A packed trail: an event is found by its offset, wherever it stands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobtrail.job import TrailEntry, Verdict, entry_at, event_key, read_trail
from jobtrail.states import State
from tests.trails import packed


@given(st.sets(st.integers(0, 2**62), max_size=40), st.integers(0, 2**62))
def test_an_event_is_found_by_its_offset(offsets: set[int], other: int) -> None:
    trail = packed(
        *(
            TrailEntry(event_key(str(o)), o, o % 1000, State.ACTIVE, 1, Verdict.LATE)
            for o in sorted(offsets)
        )
    )
    for entry in read_trail(trail):
        assert entry_at(trail, entry.offset) == entry
    if other not in offsets:
        assert entry_at(trail, other) is None
