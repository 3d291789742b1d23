"""Any trail is read as it was packed, and knows the keys of its events and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.job import event_key
from jobtrail.core.states import STATES
from jobtrail.core.trail import ENTRY_BYTES, VERDICTS, TrailEntry, read_trail, trail_has
from tests.trails import packed

keys = st.lists(st.sampled_from([0, 1]), min_size=8, max_size=8).map(bytes) | st.binary(
    min_size=8, max_size=8
)
numbers = keys.map(lambda key: int.from_bytes(key, "little", signed=True))
codes = st.integers(0, 15)
entries = st.builds(
    TrailEntry, keys, numbers, numbers, st.sampled_from(STATES), codes, st.sampled_from(VERDICTS)
)


@given(st.lists(entries, max_size=6), keys)
def test_a_trail_is_read_as_it_was_packed_and_knows_its_keys(
    trail: list[TrailEntry], other: bytes
) -> None:
    content = packed(*trail)
    assert len(content) == len(trail) * ENTRY_BYTES
    assert read_trail(content) == trail
    assert all(trail_has(content, entry.key) for entry in trail)
    assert trail_has(content, other) is (other in [entry.key for entry in trail])


def test_a_key_that_stands_in_a_trail_by_chance_is_no_match() -> None:
    key, rest = event_key("wanted"), (7, STATES[0], 0, VERDICTS[0])
    looks_like = int.from_bytes(key, "little", signed=True)
    trail = packed(TrailEntry(event_key("other"), looks_like, *rest))
    assert trail.find(key) == 8
    assert not trail_has(trail, key)
    assert trail_has(trail + packed(TrailEntry(key, 1, *rest)), key)
