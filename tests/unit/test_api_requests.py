"""What the API understands of a request, and what it says of one that it does not understand."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.states import State
from projections.ports.read import Filters
from services.api.http.instants import as_text, first_instant, last_instant
from services.api.http.query import parse_query
from services.api.http.requests import (
    BulkQuery,
    NoQuery,
    Query,
    Request,
    SearchQuery,
    StatusesBody,
    SummaryQuery,
    read_body,
    read_query,
)
from services.api.problems.problems import Problem

ARRAYS = frozenset({"jobType", "state", "tag"})
#: 2026-11-23T13:00:00Z in microseconds
NOON = 1_795_438_800_000_000
HOUR = 3_600_000_000
MIDNIGHT = NOON - 13 * HOUR


def faults(model: type[Query], raw: str) -> list[tuple[str, str]]:
    """Return parameter and detail of each fault of a query."""
    with pytest.raises(Problem) as caught:
        read_query(model, raw)
    assert caught.value.status == 400
    assert {fault.kind for fault in caught.value.faults} == {"parameter"}
    return [(fault.place, fault.detail) for fault in caught.value.faults]


def pointers(model: type[Request], body: Any) -> list[str]:
    """Return where the faults of a body are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Problem) as caught:
        read_body(model, raw)
    assert caught.value.status == 400
    assert {fault.kind for fault in caught.value.faults} == {"pointer"}
    return [fault.place for fault in caught.value.faults]


# --- the forms of a query


@pytest.mark.parametrize(
    "raw",
    [
        "jobType=a&jobType=b",
        "jobType=a,b",
        "jobType[]=a&jobType[]=b",
        "jobType%5B%5D=a&jobType%5b%5d=b",
        "jobType[]=a,b",
        "jobType=a&jobType[]=b",
        "&jobType=a&&jobType=b&",
        "jobType=%61&jobType=%62",
    ],
)
def test_all_three_forms_of_an_array_are_one(raw: str) -> None:
    assert parse_query(raw, ARRAYS) == ({"jobType": ["a", "b"]}, [])


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ("jobType=a%2Cb,c", {"jobType": ["a,b", "c"]}),
        ("bulkId=a,b", {"bulkId": "a,b"}),
        ("bulkId[]=a", {"bulkId[]": "a"}),
        ("bulkId=a+b%20c%2Bd", {"bulkId": "a b c+d"}),
        ("bulkId=a=b", {"bulkId": "a=b"}),
        ("bulkId", {"bulkId": ""}),
        ("jobType=", {"jobType": [""]}),
        ("jobType=a,", {"jobType": ["a", ""]}),
        ("bulkId=%C3%BC\u00fc", {"bulkId": "üü"}),
        ("tag=k%3Av:w", {"tag": ["k:v:w"]}),
        ("", {}),
    ],
)
def test_commas_split_arrays_only_and_only_before_decoding(raw: str, found: Any) -> None:
    assert parse_query(raw, ARRAYS) == (found, [])


@pytest.mark.parametrize("raw", ["owner=%ff", "owner=\udcff", "jobType=a,%ff", "%ff=a"])
def test_what_is_no_utf8_is_a_fault(raw: str) -> None:
    found, broken = parse_query(raw, ARRAYS)
    assert found == {}
    assert len(broken) == 1


def test_a_scalar_given_twice_is_a_fault_and_keeps_its_first_value() -> None:
    found, broken = parse_query("size=1&size=2&size=3", ARRAYS)
    assert found == {"size": "1"}
    assert [fault.place for fault in broken] == ["size", "size"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_any_values_come_back_from_any_form(values: list[str]) -> None:
    escaped = [quote(value, safe="") for value in values]
    for raw in (
        "jobType=" + ",".join(escaped),
        "&".join(f"jobType={value}" for value in escaped),
        "&".join(f"jobType[]={value}" for value in escaped),
    ):
        assert parse_query(raw, ARRAYS) == ({"jobType": values}, [])


@given(st.text())
def test_no_query_string_breaks_the_parser(raw: str) -> None:
    parse_query(raw, ARRAYS)


# --- what the queries mean


def test_a_search_takes_all_its_filters() -> None:
    query = read_query(
        SearchQuery,
        "jobType=a,b&state=failed&state[]=active&startDate=2026-11-23&endDate=2026-11-23"
        "&owner=alice&bulkId=b-17&tag=tenant:acme,k:v:w&updatedSince=2026-11-23T13:00:00Z"
        "&offset=7&size=20",
    )
    assert query.filters == Filters(
        job_types=("a", "b"),
        states=(State.FAILED, State.ACTIVE),
        created_from=MIDNIGHT,
        created_to=MIDNIGHT + 24 * HOUR - 1,
        owner="alice",
        bulk_id="b-17",
        tags=(("tenant", "acme"), ("k", "v:w")),
        updated_since=NOON,
    )
    assert (query.offset, query.size) == (7, 20)


def test_what_is_not_given_has_the_contracts_default() -> None:
    query = read_query(SearchQuery, "")
    assert query.filters == Filters()
    assert (query.offset, query.size, query.cursor) == (0, 100, None)
    assert read_query(BulkQuery, "bulkId=b").wait == 0
    body = read_body(StatusesBody, b'{"jobIds": ["a"]}')
    assert (body.wait, body.poll_interval, body.until) == (0, 1, "all")
    assert not body.include_unknown


def test_all_faults_of_a_query_are_told_at_once() -> None:
    found = faults(
        SearchQuery,
        "sise=20&state=done,failed,lost&startDate=yesterday&size=1001&offset=-1&owner=a&owner=b"
        "&tag=novalue&bulkId=%00&jobType=",
    )
    places = "bulkId jobType offset owner sise size startDate state state tag"
    assert " ".join(sorted(place for place, _detail in found)) == places
    assert ("sise", "There is no such parameter.") in found
    assert ("owner", "It can be given only once.") in found
    assert any(place == "state" and "'done'" in detail for place, detail in found)


@pytest.mark.parametrize(
    ("model", "raw", "place"),
    [
        (BulkQuery, "", "bulkId"),
        (BulkQuery, "bulkId=", "bulkId"),
        (BulkQuery, "bulkId=" + "x" * 257, "bulkId"),
        (BulkQuery, "bulkId=b&wait=-2", "wait"),
        (BulkQuery, "bulkId=b&wait=86401", "wait"),
        (BulkQuery, "bulkId=b&wait=1.5", "wait"),
        (BulkQuery, "bulkId=b&wait=1_0", "wait"),
        (BulkQuery, "bulkId=b&wait=", "wait"),
        (BulkQuery, "bulkId=b&wait=%D9%A1", "wait"),
        (BulkQuery, "bulkId=b&state=active", "state"),
        (SummaryQuery, "state=active", "state"),
        (SummaryQuery, "bulkId[]=b", "bulkId[]"),
        (SearchQuery, "size=0", "size"),
        (SearchQuery, "size=+5", "size"),
        (SearchQuery, "size=99999999999999999999", "size"),
        (SearchQuery, "tag=:v", "tag"),
        (SearchQuery, "state=Active", "state"),
        (SearchQuery, "job_types=a", "job_types"),
        (NoQuery, "x=1", "x"),
    ],
)
def test_one_wrong_parameter_is_named(model: type[Query], raw: str, place: str) -> None:
    assert [found for found, _detail in faults(model, raw)] == [place]


def test_bounds_are_inclusive() -> None:
    for raw in ("wait=-1", "wait=0", "wait=86400"):
        read_query(BulkQuery, f"bulkId={'x' * 256}&{raw}")
    for raw in ("size=1", "size=1000", "offset=0", "tag=k:"):
        read_query(SearchQuery, raw)


# --- bodies


@pytest.mark.parametrize(
    ("body", "places"),
    [
        (b"", [""]),
        (b"nope", [""]),
        (b'{"jobIds": ["\xff"]}', [""]),
        ([], [""]),
        (None, [""]),
        ({}, ["/jobIds"]),
        ({"jobIds": []}, ["/jobIds"]),
        ({"jobIds": "a"}, ["/jobIds"]),
        ({"jobIds": ["a"] * 1001}, ["/jobIds"]),
        ({"jobIds": ["a", 1, None]}, ["/jobIds/1", "/jobIds/2"]),
        ({"jobIds": ["a"], "wait": -2}, ["/wait"]),
        ({"jobIds": ["a"], "wait": 86401}, ["/wait"]),
        ({"jobIds": ["a"], "wait": 0.5}, ["/wait"]),
        ({"jobIds": ["a"], "wait": "5"}, ["/wait"]),
        ({"jobIds": ["a"], "wait": True}, ["/wait"]),
        ({"jobIds": ["a"], "wait": None}, ["/wait"]),
        ({"jobIds": ["a"], "pollInterval": 0}, ["/pollInterval"]),
        ({"jobIds": ["a"], "until": "some"}, ["/until"]),
        ({"jobIds": ["a"], "includeUnknown": 1}, ["/includeUnknown"]),
        ({"jobIds": ["a"], "a/b~c": 1}, ["/a~1b~0c"]),
        ({"jobIds": [1], "wait": -2, "x": 1}, ["/jobIds/0", "/wait", "/x"]),
    ],
)
def test_faults_of_a_body_are_pointed_at(body: Any, places: list[str]) -> None:
    assert pointers(StatusesBody, body) == places


def test_whole_numbers_are_whole_however_they_are_written() -> None:
    body = read_body(StatusesBody, b'{"jobIds": ["a"], "wait": 5.0, "pollInterval": 1e3}')
    assert (body.wait, body.poll_interval) == (5, 1000)
    assert read_body(StatusesBody, b'{"jobIds": ["a"], "wait": -1}').wait == -1


# --- dates


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-11-23", MIDNIGHT, MIDNIGHT + 24 * HOUR - 1),
        ("2026-11-23T13:00:00Z", NOON, NOON),
        ("2026-11-23T13:00:00", NOON, NOON),
        ("2026-11-23T13:00", NOON, NOON),
        ("2026-11-23t13:00:00z", NOON, NOON),
        ("2026-11-23T15:00:00+02:00", NOON, NOON),
        ("2026-11-23T15:00:00 02:00", NOON, NOON),
        ("2026-11-23T15:00:00+0200", NOON, NOON),
        ("2026-11-23T10:00:00-03:00", NOON, NOON),
        ("2026-11-23T13:00:00.123Z", NOON + 123_000, NOON + 123_000),
        ("2026-11-23T13:00:00.123456Z", NOON + 123_456, NOON + 123_456),
        ("2026-11-23T13:00:00.1234560Z", NOON + 123_456, NOON + 123_456),
        ("2026-11-23T13:00:00.1234567Z", NOON + 123_457, NOON + 123_456),
        ("1970-01-01", 0, 24 * HOUR - 1),
        ("1969-12-31T23:59:59.999999Z", -1, -1),
    ],
)
def test_a_date_stands_for_its_instants(text: str, first: int, last: int) -> None:
    assert first_instant(text) == first
    assert last_instant(text) == last


def test_the_ends_of_the_calendar_are_dates_too() -> None:
    assert last_instant("9999-12-31") == first_instant("9999-12-31T23:59:59.999999Z")
    assert first_instant("0001-01-01T00:00:00+14:00") < first_instant("0001-01-01")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "today",
        "-1",
        "1795438800",
        "23.11.2026",
        "2026-13-01",
        "2026-02-30",
        "2026-11-23T",
        "T13:00",
        "2026-11-23 13:00:00",
        "2026-11-23T25:00:00Z",
        "2026-11-23T13:00:00+99:00",
    ],
)
def test_anything_else_is_no_date(text: str) -> None:
    for name in ("startDate", "endDate", "updatedSince"):
        assert [place for place, _ in faults(SearchQuery, f"{name}={quote(text)}")] == [name]


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (NOON, "2026-11-23T13:00:00.000Z"),
        (NOON + 123_000, "2026-11-23T13:00:00.123Z"),
        (NOON + 1, "2026-11-23T13:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (first_instant("0001-01-01T00:00:00+05:00"), "0001-01-01T00:00:00.000Z"),
        (last_instant("9999-12-31T23:59:59-05:00"), "9999-12-31T23:59:59.000Z"),
        (None, None),
    ],
)
def test_instants_are_written_in_utc(instant: int | None, text: str | None) -> None:
    assert as_text(instant) == text


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_every_instant_is_read_as_it_was_written(instant: int) -> None:
    text = as_text(instant)
    assert text is not None
    assert first_instant(text) == last_instant(text) == instant
