"""Listings in bounded parts give what a whole listing gives, whatever the bounds are."""

from __future__ import annotations

import pytest

from projections.ports.meter import Meter, TooLong
from projections.ports.read import Caller, Cursor, Filters, Snapshot, job_of
from tests.contract.conftest import Filled
from tests.contract.store_checks import EVERYBODY, listed
from tests.contract.store_model import plain
from tests.contract.test_store_search import ALONE, SOME_CALLERS

LARGE = 1 << 30
#: Size of a page, jobs that are looked at, bytes.
BOUNDS = {
    "whole pages": (1000, 20_000, LARGE),
    "small pages": (37, 20_000, LARGE),
    "few looked at": (50, 61, LARGE),
}
TINY = {
    "one looked at": (20, 1, LARGE),
    "one at a time": (3, 20_000, 1),
}


def in_parts(
    snapshot: Snapshot,
    caller: Caller,
    filters: Filters,
    size: int,
    most: int,
    most_bytes: int,
    skip: int = 0,
) -> list[dict[str, object]]:
    """Return a listing that is gone through part by part."""
    found = []
    after: Cursor | None = None
    for _ in range(2_000):
        part = snapshot.search_some(
            caller, filters, size=size, after=after, skip=skip, most=most, most_bytes=most_bytes
        )
        assert len(part.lines) <= size
        found += [job_of(*line) for line in part.lines]
        if part.reached is None:
            return plain(found)
        assert part.reached != after, "it does not move on"
        after, skip = part.reached, part.skip
    raise AssertionError("it does not come to an end")


@pytest.mark.parametrize("filters", ALONE.values(), ids=ALONE)
def test_parts_make_up_the_whole(filled: Filled, filters: Filters) -> None:
    with filled.reader.snapshot() as snapshot:
        for caller in SOME_CALLERS[:4]:
            expected = plain(filled.model.listing(caller, filters))
            for name, bounds in BOUNDS.items():
                assert in_parts(snapshot, caller, filters, *bounds) == expected, (caller, name)


@pytest.mark.parametrize("bounds", TINY.values(), ids=TINY)
def test_parts_make_up_the_whole_however_small(filled: Filled, bounds: tuple[int, ...]) -> None:
    caller = SOME_CALLERS[1]
    with filled.reader.snapshot() as snapshot:
        for filters in (Filters(), ALONE["two states"], ALONE["two tags"]):
            expected = plain(filled.model.listing(caller, filters))
            assert in_parts(snapshot, caller, filters, *bounds) == expected


@pytest.mark.parametrize("skip", [0, 1, 19, 500, 10**6])
def test_jobs_are_passed_over_part_by_part(filled: Filled, skip: int) -> None:
    filters = ALONE["two states"]
    with filled.reader.snapshot() as snapshot:
        expected = plain(filled.model.listing(EVERYBODY, filters))[skip:]
        for bounds in BOUNDS.values():
            assert in_parts(snapshot, EVERYBODY, filters, *bounds, skip=skip) == expected


@pytest.mark.parametrize(
    "meter",
    [
        Meter(100, rows=LARGE, audiences=LARGE, every=50),
        Meter(10**9, rows=LARGE, audiences=LARGE, every=50, seconds=0.0),
    ],
    ids=["steps", "seconds"],
)
def test_a_read_that_takes_too_long_is_ended_and_the_next_one_is_not(
    filled: Filled, meter: Meter
) -> None:
    reader, filters = filled.reader, ALONE["an unknown tag"]
    usual = reader.meter
    reader.meter = meter
    try:
        with pytest.raises(TooLong), reader.snapshot() as snapshot, snapshot.meter:
            snapshot.search(EVERYBODY, filters, size=20)
        # Where the bound does not hold, and after it has held.
        with reader.snapshot() as snapshot:
            assert listed(snapshot, EVERYBODY, filters, size=20) == []
            assert len(listed(snapshot, EVERYBODY, Filters(), size=20)) == 20
    finally:
        reader.meter = usual


def test_a_read_is_ended_when_nobody_waits_for_it(filled: Filled) -> None:
    reader = filled.reader
    usual = reader.meter
    reader.meter = Meter(10**9, rows=LARGE, audiences=LARGE, every=50)
    reader.meter.is_over = lambda: True
    try:
        with pytest.raises(TooLong), reader.snapshot() as snapshot, snapshot.meter:
            snapshot.search(EVERYBODY, ALONE["an unknown tag"], size=20)
    finally:
        reader.meter = usual


def test_rows_and_audiences_are_bounded(filled: Filled) -> None:
    reader = filled.reader
    usual = reader.meter
    for meter in (
        Meter(10**9, rows=0, audiences=LARGE),
        Meter(10**9, rows=LARGE, audiences=0),
    ):
        reader.meter = meter
        with pytest.raises(TooLong), reader.snapshot() as snapshot, snapshot.meter:
            snapshot.search(EVERYBODY if meter.rows == 0 else SOME_CALLERS[1], Filters(), size=1000)
    reader.meter = usual
