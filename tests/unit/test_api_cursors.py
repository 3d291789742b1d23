"""Cursors and what is asked of the past: places that only the service can name, and times."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.asof import Cut
from projections.ports.read import Cursor, Filters
from services.api.http.cursors import Cursors
from services.api.http.requests import SearchQuery, SummaryQuery, read_query
from services.api.problems.problems import Problem

#: 2026-11-23T13:00:00Z
NOON = 1_795_438_800_000_000
CURSORS = Cursors(b"k" * 32)
PLACE = Cursor(NOON, "cefb58a0-cd71-11ec-8e29-81c20d280994")


def next_of(raw: str, cursors: Cursors = CURSORS, skip: int = 0) -> str:
    following = cursors.next_page(read_query(SearchQuery, raw), PLACE, "lineage", skip)
    return following.partition("?")[2]


def place_in(raw: str, cursors: Cursors = CURSORS) -> tuple[Cursor | None, int]:
    return cursors.place(read_query(SearchQuery, raw))[:2]


def as_sets(filters: Filters) -> list[object]:
    """Return filters without the order in which the values of one were given."""
    return [frozenset(value) if isinstance(value, tuple) else value for value in filters]


EVERY_FILTER = (
    "jobType=b,a&state=failed,active&startDate=2026-11-01&endDate=2026-11-30&owner=al%26ice"
    "&bulkId=a,b&tag=k%2C:v,x:y&updatedSince=2026-11-23T13:00:00.5%2B01:00&size=7&offset=3"
    "&asOf=2026-11-23T13:00:00.25%2B01:00"
)


@pytest.mark.parametrize("raw", ["", "size=20", "offset=3", EVERY_FILTER])
def test_the_next_page_has_the_same_filters_and_knows_its_place(raw: str) -> None:
    following = read_query(SearchQuery, next_of(raw))
    before = read_query(SearchQuery, raw)
    place = CURSORS.place(following)
    assert place[:2] == (PLACE, 0)
    assert following.as_of == before.as_of
    assert following.size == before.size
    assert following.offset == 0
    assert as_sets(following.filters) == as_sets(before.filters)


def test_a_filter_may_be_spelled_otherwise_on_the_next_page() -> None:
    cursor = next_of("jobType=a,b&startDate=2026-11-23").rpartition("cursor=")[2]
    same = f"startDate=2026-11-23T01:00:00%2B01:00&jobType[]=b&jobType[]=a&size=5&cursor={cursor}"
    assert place_in(same) == (PLACE, 0)


def test_a_cursor_holds_what_is_still_to_be_passed_over_and_when_it_was() -> None:
    assert place_in("offset=7") == (None, 7)
    for then in ("2026-11-23", "0:10,1:7"):
        assert place_in(next_of(f"asOf={then}&offset=7", skip=5)) == (PLACE, 5)
        cursor = next_of(f"asOf={then}").rpartition("cursor=")[2]
        assert place_in(f"asOf={then}&cursor={cursor}") == (PLACE, 0)
        assert refused(f"cursor={cursor}") == "cursor"
        assert refused(f"asOf=0:10,1:8&cursor={cursor}") == "cursor"


@pytest.mark.parametrize(
    ("raw", "cut"),
    [
        ("2026-11-23T13:00:00Z", Cut(NOON)),
        ("2026-11-23t14:00:00%2b01:00", Cut(NOON)),
        ("2026-11-23", Cut(NOON + 11 * 3_600_000_000 - 1)),
        ("3:1043", Cut(None, {3: 1043})),
        ("0:10,1:7", Cut(None, {0: 10, 1: 7})),
    ],
)
def test_as_of_is_an_instant_or_a_position(raw: str, cut: Cut) -> None:
    assert read_query(SummaryQuery, f"asOf={raw}").as_of == cut


@pytest.mark.parametrize("raw", ["", "now", "3:", "3:1,3:2", ":", "13:00:00", "2026-11-31", "a:b"])
def test_what_is_neither_is_refused(raw: str) -> None:
    with pytest.raises(Problem) as caught:
        read_query(SummaryQuery, f"asOf={raw}")
    assert [fault.place for fault in caught.value.faults] == ["asOf"]


def refused(raw: str, cursors: Cursors = CURSORS) -> str:
    with pytest.raises(Problem) as caught:
        place_in(raw, cursors)
    assert caught.value.status == 400
    (fault,) = caught.value.faults
    return fault.place


def test_a_cursor_is_good_for_its_own_filters_only() -> None:
    cursor = next_of("jobType=a").rpartition("cursor=")[2]
    for other in ("", "jobType=b&", "jobType=a&owner=x&", "jobType=a,b&", "owner=a&"):
        assert refused(f"{other}cursor={cursor}") == "cursor"
    assert refused(f"jobType=a&offset=1&cursor={cursor}") == "offset"


def test_a_cursor_of_another_service_is_refused() -> None:
    assert refused(next_of("", Cursors(b"x" * 32))) == "cursor"


@given(st.data())
def test_a_cursor_that_was_tampered_with_is_refused(data: st.DataObject) -> None:
    cursor = next_of("").rpartition("cursor=")[2]
    at = data.draw(st.integers(0, len(cursor) - 2))
    other = data.draw(st.sampled_from("ABCDEFabcdef0123456789-_").filter(lambda c: c != cursor[at]))
    assert refused(f"cursor={cursor[:at]}{other}{cursor[at + 1 :]}") == "cursor"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    assert refused(f"cursor={quote(text, safe='')}") == "cursor"


def test_a_cursor_of_another_log_is_refused() -> None:
    place = CURSORS.place(read_query(SearchQuery, next_of("jobType=a")))
    place.check("lineage")
    with pytest.raises(Problem) as refused:
        place.check("another")
    assert (refused.value.status, refused.value.kind.name) == (410, "log-changed")
    CURSORS.place(read_query(SearchQuery, "")).check("any")
