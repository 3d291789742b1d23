"""What is a valid record of the log: each refusal with what it says, and many records at one go."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobtrail.core.decoding import (
    DECODED_TOGETHER,
    InvalidHeader,
    accept,
    decode_clear,
    event_keys,
    ids_of,
)
from jobtrail.core.errors import EventError
from jobtrail.core.events import MAX_NAME_BYTES, MAX_PAYLOAD_BYTES, Event, decode
from jobtrail.core.job import event_key, foreign_key
from jobtrail.core.nesting import MAX_NESTING, SHALLOW_BYTES
from jobtrail.core.partitions import partition_of
from jobtrail.core.source_binding import pack_sources, stamp
from tests.unit.test_fold_properties import wide_events, wire

PARTITIONS = 8
HOME = partition_of("job", PARTITIONS)


def event(kind: str = "completed", **more: Any) -> bytes:
    found = {"specversion": "1.0", "id": "e", "source": "//s", "type": f"job.{kind}"}
    return json.dumps({**found, "subject": "job", **more}, ensure_ascii=False).encode()


def sized(size: int, kind: str = "completed") -> bytes:
    """Return an event of so many bytes."""
    return event(kind, more="x" * (size - len(event(kind, more=""))))


def decoded(value: bytes | None) -> Event | None:
    try:
        return decode(value)
    except EventError:
        return None


# --- one record


def refusal(key: bytes | None, value: bytes | None, partition: int = HOME) -> EventError:
    with pytest.raises(EventError) as refused:
        accept(key, value, partition, PARTITIONS)
    assert not refused.value.retriable
    return refused.value


def test_a_record_with_its_jobs_key_in_its_jobs_partition_is_accepted() -> None:
    for job in ("job", "é", "😀" * 256, *map(str, range(40))):
        value = event(subject=job)
        accepted = accept(job.encode(), value, partition_of(job, PARTITIONS), PARTITIONS)
        assert accepted == decode(value)


def test_partitions_are_compared_as_numbers() -> None:
    found = partition_of("job", 100_000)
    assert found > 1_000
    # Another object of the same value, as it comes from Kafka.
    assert accept(b"job", event(), int(str(found)), 100_000) == decode(event())


@pytest.mark.parametrize("key", [None, b"", b"jo", b"job\0", b"zzz", b"aaa", b"\xff"])
def test_another_key_than_the_jobs_is_refused(key: bytes | None) -> None:
    error = refusal(key, event())
    assert (error.reason, error.found) == ("wrong-key", repr(key))
    assert "'job'" in str(error.expected)
    assert "key" in error.what


@pytest.mark.parametrize("partition", [n for n in [*range(PARTITIONS), -1, 1000] if n != HOME])
def test_another_partition_than_the_keys_is_refused(partition: int) -> None:
    error = refusal(b"job", event(), partition)
    assert error.reason == "wrong-partition"
    assert f"partition {HOME} of {PARTITIONS}" in str(error.expected)
    assert error.found == f"partition {partition}"
    # The reason of most of these, and the way out.
    assert "partitioner=murmur2_random" in str(error.hint)
    assert "partition" in error.what


def test_a_header_whose_name_is_no_utf_8_is_refused_whatever_the_value() -> None:
    for value in (event(), b"{", b""):
        error = refusal(b"job", InvalidHeader(value))
        assert error.reason == "header-not-utf-8"
        assert "UTF-8" in str(error.expected)
        assert "header" in error.what


def test_the_first_thing_that_is_wrong_is_the_reason() -> None:
    elsewhere = (HOME + 1) % PARTITIONS
    assert refusal(b"other", event(more=1).replace(b"1.0", b"0.3"), elsewhere).reason == "invalid"
    assert refusal(b"other", event(), elsewhere).reason == "wrong-key"
    assert refusal(b"other", None, elsewhere).reason == "no-value"


# --- ids


def test_keys_that_are_ids_are_told_from_those_that_are_none() -> None:
    assert ids_of([]) == {}
    assert ids_of([b"a", None, "é".encode(), b"a"]) == {b"a": "a", "é".encode(): "é"}
    assert ids_of([b"a", b"\xff", None, b"", b"\xc3", b"b"]) == {b"a": "a", b"": "", b"b": "b"}
    assert ids_of(key for key in (b"\xff", b"a")) == {b"a": "a"}


def test_a_key_that_is_longer_than_any_id_is_none() -> None:
    longest = b"x" * MAX_NAME_BYTES
    assert ids_of([longest, longest + b"x"]) == {longest: longest.decode()}


@pytest.mark.parametrize("count", [0, 1, DECODED_TOGETHER, 2 * DECODED_TOGETHER + 3])
def test_the_keys_of_events_are_those_of_each(count: int) -> None:
    values: list[bytes | None] = []
    expected: set[bytes] = set()
    for number in range(count):
        name = f"e-{number}"
        if number % 7 == 1:
            values.append(None)
        if number % 11 == 10:
            values.append(b"{}")
            continue
        # Some are clear, some are decoded by themselves.
        value = event(id=name, note="\\" if number % 3 else "")
        expected.add(event_key(name))
        if number % 5 == 0:
            bound = pack_sources([f"//bound/{number}"])
            value = stamp(value, bound)
            expected.add(foreign_key(bound, name))
        values.append(value)
    assert event_keys(values) == expected


# --- many records at one go

CLEAR = [
    event(),
    event("created", data={"jobType": "t", "owner": "alice", "tags": {"a": "b"}}),
    event("progress", data={"progress": 0.5}, time="2026-11-23T13:00:00Z"),
    event("failed", data={"error": {"a": [1, None]}, "output": "{}"}),
    event(time="0002-01-01T00:00:00+14:00"),
    event(time="9998-12-31T23:59:59-14:00"),
    sized(SHALLOW_BYTES),
    sized(SHALLOW_BYTES + 1),
    sized(MAX_PAYLOAD_BYTES),
    # Numbers that a double holds, and texts that look like others.
    event(data={"output": [1e300, "1e400", ", 1e5 ,", 10**308]}, mine=1e308),
    # With those of event and data, as many brackets as there may be.
    event(data={"output": [[]] * (MAX_NESTING - 3)}),
]
#: Not clear: `accept` has to judge them, whether they are valid or not.
ODD = {
    "no value": None,
    "nothing": b"",
    "one byte": b"}",
    "a letter beyond ASCII": event(source="é"),
    "a backslash": event(more="\\"),
    "DEL": event(id="a\x7f"),
    "one byte more than any output has": sized(MAX_PAYLOAD_BYTES + 1),
    "one bracket more than may be nested": event(data={"output": [[]] * (MAX_NESTING - 2)}),
    "too deep": event(data={"output": "@"}).replace(b'"@"', b"[" * 255 + b"]" * 255),
    "a space before": b" " + event(),
    "a space behind": event() + b" ",
    "a line's end in it": event().replace(b", ", b",\n", 1),
    "a line's end behind": event() + b"\n",
    "two events in two lines": event() + b"\n" + event(),
    "an array": b"[" + event() + b"]",
    "half an event": event()[:-1],
    "the other half": event()[1:],
    "a header's name": InvalidHeader(event()),
}
#: These look clear, and are no event, or two.
WRONG = {
    "an empty object": b"{}",
    "no specversion": event(specversion="0.3"),
    "no JSON": b"{event}",
    "two events": event() + b" " + event(),
    "two events without a space": event() + event(),
    "a control character": event(id="@").replace(b"@", b"\x01"),
    "the year 1": event(time="0001-06-01T00:00:00Z"),
    "the year 9999": event(time="9999-12-31T23:59:59-14:00"),
    "a number beyond a double": event(data={"output": ["@"]}).replace(b'"@"', b"1e400"),
    "one in a member that nobody knows": event(mine="@").replace(b'"@"', b"9" * 309),
    "no JSON in it": event(datacontenttype="text/plain", data={}),
    "no event but with the next": b'{"specversion":"1.0","x":{}',
}


def test_what_is_clear_is_decoded() -> None:
    assert decode_clear([]) == []
    for value in CLEAR:
        assert decode_clear([value]) == [decode(value)]
    assert decode_clear(CLEAR) == list(map(decode, CLEAR))
    assert decode_clear([event()] * 300) == [decode(event())] * 300


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_is_not_clear_is_left_to_be_judged_and_takes_nothing_with_it(odd: bytes) -> None:
    assert decode_clear([odd]) == [None]
    first, *rest = CLEAR
    wanted = [decode(first), None, *map(decode, rest), None]
    assert decode_clear([first, odd, *rest, odd]) == wanted


def test_all_that_is_not_clear_is_left_to_be_judged() -> None:
    assert decode_clear(list(ODD.values())) == [None] * len(ODD)
    mixed = [value for odd in ODD.values() for value in (odd, event())]
    assert decode_clear(mixed) == [None, decode(event())] * len(ODD)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_no_event_is_left_to_be_judged_with_those_beside_it(wrong: bytes) -> None:
    assert decode_clear([wrong]) == [None]
    assert decode_clear([event(), wrong, event()]) == [None] * 3
    assert decode_clear([event(), wrong, None, event()]) == [None] * 4
    # Beside others of which each has a part of what is wrong with it, and is right.
    right = [event(time="2026-11-23T13:00:00Z"), event(data={"output": [", 1e999 ,"]})]
    assert decode_clear([*right, wrong, *right]) == [None] * 5


def test_a_value_never_takes_a_part_of_the_next() -> None:
    halves = b'{"specversion":"1.0","x":"}', b'{"}'
    objects = b'{"specversion":"1.0","x":{}', b"{}}"
    two = event() + b" " + event()
    for pair in (halves, objects):
        assert decode_clear([*pair, event()]) == [None] * 3
        assert decode_clear([two, *pair]) == [None] * 3
    assert decode_clear([two, b"{}"]) == [None] * 2
    # One event if nothing lay between them: with the two in one value as many as there are values.
    begun, ended = event()[:-1] + b',"x":"}', b'{"}'
    assert decode(begun + ended)
    assert decode_clear([two, begun, ended]) == [None] * 3
    assert decode_clear([two, begun, ended, None]) == [None] * 4


def test_a_deep_stack_leaves_a_value_to_be_judged() -> None:
    value = event(data={"output": "@"}).replace(b'"@"', b"[" * 240 + b"]" * 240)
    found: list[list[Event | None]] = []

    def go_down(calls: int) -> None:
        if calls:
            go_down(calls - 1)
        else:
            found.append(decode_clear([value]))

    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    # Enough for a few functions, but not for as many brackets, where both count as calls.
    go_down(sys.getrecursionlimit() - depth - 120)
    assert found[0] in ([None], [decode(value)])


@given(
    st.lists(
        wide_events().map(wire)
        | st.sampled_from([*CLEAR, *ODD.values(), *WRONG.values()])
        | st.binary(max_size=8),
        max_size=6,
    )
)
@example([*CLEAR, *ODD.values(), *WRONG.values()])
def test_an_event_of_many_is_the_one_that_it_is_alone(values: list[bytes | None]) -> None:
    found = decode_clear(values)
    assert len(found) == len(values)
    assert all(one in (None, decoded(value)) for one, value in zip(found, values, strict=True))
