"""A packed trail: an event is found by its offset, wherever it stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jobtrail.core.decoding import event_keys
from jobtrail.core.earlier import MemoryChunks, StoredEntries
from jobtrail.core.events import Event, decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Place, entries_of, event_key, kept_trail
from jobtrail.core.states import State
from jobtrail.core.trail import (
    CHUNK_ENTRIES,
    ENTRY_BYTES,
    TRAIL_LAYOUT,
    TrailEntry,
    Verdict,
    entry_at,
    keys_of,
    read_trail,
    trail_page,
)
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


@given(st.lists(st.integers(0, 50), unique=True), st.integers(0, 60), st.integers(0, 9))
def test_a_page_of_a_trail_is_a_part_of_it(places: list[int], offset: int, size: int) -> None:
    whole = b"".join(TRAIL_LAYOUT.pack(b"12345678", at, 5, 1, 0) for at in sorted(places))
    expected = [entry for entry in read_trail(whole) if entry.offset >= offset][:size]
    assert trail_page(whole, offset, size) == expected


def event_of(number: int) -> Event:
    """Return an event of one job, with an id of its own."""
    return decode(
        b'{"specversion":"1.0","id":"event-%d","source":"//test","type":"job.progress",'
        b'"subject":"hot","time":"2026-11-23T13:00:00Z","data":{}}' % number
    )


def chunk_of(number: int, first: int = 0) -> bytes:
    """Return a chunk of events whose ids begin with a number."""
    return b"".join(
        TRAIL_LAYOUT.pack(event_key(f"{number}-{at}"), first + at, 0, 0, 0)
        for at in range(CHUNK_ENTRIES)
    )


def test_chunks_know_their_own_keys_and_no_others() -> None:
    chunks = MemoryChunks()
    for number in range(40):
        chunks = chunks.with_chunk(chunk_of(number))
    assert chunks.entries == 40 * CHUNK_ENTRIES
    assert all(chunks.has(event_key(f"{n}-{at}")) for n in range(40) for at in (0, 31, 63))
    assert not any(chunks.has(event_key(f"40-{at}")) for at in range(CHUNK_ENTRIES))
    # Where one key ends and the next begins there is none.
    content = b"".join(keys_of(chunks.kept()))
    assert not any(chunks.has(content[at : at + 8]) for at in range(3, 800, 8))


def test_chunks_stay_what_they_are_when_somebody_goes_on_from_them() -> None:
    one = MemoryChunks([chunk_of(1)])
    two, other = one.with_chunk(chunk_of(2)), one.with_chunk(chunk_of(3))
    three = two.with_chunk(chunk_of(4))
    for chunks, numbers in ((one, [1]), (two, [1, 2]), (other, [1, 3]), (three, [1, 2, 4])):
        assert chunks.kept() == b"".join(map(chunk_of, numbers))
        found = [n for n in range(5) if chunks.has(event_key(f"{n}-7"))]
        assert found == numbers
        assert chunks == MemoryChunks(map(chunk_of, numbers))
    assert two != other
    assert hash(two) == hash(MemoryChunks([chunk_of(1), chunk_of(2)]))


def test_what_lies_elsewhere_is_known_by_what_was_asked() -> None:
    seen, unseen = event_key("seen"), event_key("unseen")
    earlier = StoredEntries(CHUNK_ENTRIES)
    with pytest.raises(LookupError, match=seen.hex()):
        earlier.has(seen)
    asked = earlier.with_answers({seen: True, unseen: False, event_key("5-1"): False})
    assert (asked.has(seen), asked.has(unseen)) == (True, False)
    more = asked.with_chunk(chunk_of(5))
    assert (more.entries, asked.entries) == (2 * CHUNK_ENTRIES, CHUNK_ENTRIES)
    assert (more.has(event_key("5-1")), asked.has(event_key("5-1"))) == (True, False)
    assert (more.kept(), asked.kept()) == (chunk_of(5), b"")


def test_what_a_store_has_by_now_is_not_kept() -> None:
    earlier: StoredEntries = StoredEntries(CHUNK_ENTRIES)
    for number in range(40):
        earlier = earlier.with_chunk(chunk_of(number, number * CHUNK_ENTRIES))
    key = event_key("3-3")
    asked = earlier.with_answers({key: False}, stored_to=30 * CHUNK_ENTRIES + 1)
    assert asked.entries == earlier.entries
    assert asked.kept() == b"".join(chunk_of(n, n * CHUNK_ENTRIES) for n in range(30, 40))
    assert (asked.has(key), earlier.with_answers({key: False}).has(key)) == (False, True)
    assert asked.with_answers({key: True}, stored_to=0).has(key)


def test_a_fold_of_very_many_events_knows_each_of_them_again() -> None:
    job, events = None, [event_of(number) for number in range(5 * CHUNK_ENTRIES + 3)]
    for offset, event in enumerate(events):
        job, verdict = fold(job, event, Place(0, offset, 0))
        assert verdict is Verdict.APPLIED
    assert job is not None
    assert (entries_of(job), len(job.trail)) == (len(events), 3 * ENTRY_BYTES)
    before = kept_trail(job)
    for offset, event in enumerate(events, len(events)):
        after, verdict = fold(job, event, Place(0, offset, 0))
        assert verdict is Verdict.DUPLICATE
        assert kept_trail(after).startswith(before)
    assert kept_trail(job) == before
    assert [entry.offset for entry in read_trail(before)] == list(range(len(events)))


def bound_event(event_id: str, sources: str) -> bytes:
    """Return an event whose sender is bound to sources."""
    return (
        b'{"specversion":"1.0","id":"%b","source":"//test","type":"job.progress","subject":"hot",'
        b'"time":"2026-11-23T13:00:00Z","data":{},"jobtrailsources":"%b"}'
    ) % (event_id.encode(), sources.encode())


@pytest.mark.parametrize("sources", ["//test", "//other"])
def test_a_bound_event_behind_a_long_trail_is_judged_as_behind_a_whole_one(sources: str) -> None:
    """Where a store has the beginning, it is asked for each key that the fold may look for."""
    whole, events = None, [event_of(number) for number in range(2 * CHUNK_ENTRIES)]
    foreign = decode(bound_event("refused", "//other"))
    for offset, event in enumerate([events[0], foreign, *events[1:-1]]):
        whole, _verdict = fold(whole, event, Place(0, offset, 0))
    assert whole is not None
    stored = set(keys_of(kept_trail(whole)))
    for event_id in ("new", "refused", "event-0", "event-70"):
        value = bound_event(event_id, sources)
        keys = event_keys([value])
        job = replace(whole, earlier=StoredEntries(entries_of(whole)), trail=b"")
        assert isinstance(job.earlier, StoredEntries)
        job.earlier = job.earlier.with_answers({key: key in stored for key in keys})
        place = Place(0, 1000, 0)
        after, verdict = fold(job, decode(value), place)
        expected, judged = fold(whole, decode(value), place)
        assert (verdict, after.trail[-ENTRY_BYTES:]) == (judged, expected.trail[-ENTRY_BYTES:])
