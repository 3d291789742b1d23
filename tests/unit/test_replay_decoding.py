"""Columns of events, held against `accept` and plain rows, on valid, odd and broken records."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobtrail.core import events as ev
from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError
from jobtrail.core.partition_columns import partitions_of, partitions_within
from jobtrail.core.partitions import partition_of
from jobtrail.replay.events.decoding import Decoder, Record, in_turn
from jobtrail.replay.schemas import EVENTS, RECORDS
from tests.replay_rows import Logged, Row, row_of
from tests.unit.test_fold_properties import Body, bodies, wide_events

PARTITIONS = 3
NOON = 1_795_438_800_000_000
FIELDS = {"worker": "worker", "message": "message", "retry_at": "retryAt", "reason": "reason"}


def record(
    value: bytes | None,
    key: bytes | None = b"job",
    *,
    partition: int | None = None,
    logged_at: int = NOON,
    headers: list[dict[str, bytes | None]] | None = None,
) -> Row:
    """Return a row of `RECORDS` without its offset; by its key in the right partition."""
    if partition is None:
        name = (key or b"").decode("utf-8", "replace")
        partition = partition_of(name, PARTITIONS)
    found = {"partition": partition, "logged_at": logged_at, "key": key, "value": value}
    return {**found, "headers": headers}


def batch_of(rows: list[Row]) -> pa.RecordBatch:
    numbered = [{**row, "offset": number} for number, row in enumerate(rows)]
    return pa.RecordBatch.from_pylist(numbered, schema=RECORDS)


def accepted(found: Record) -> ev.Event | None:
    try:
        return accept(found.key, found.value, found.place.partition, PARTITIONS)
    except EventError:
        return None


def wanted_of(records: pa.RecordBatch) -> pa.RecordBatch:
    """Return what `accept` takes, made row by row."""
    rows = []
    for found in in_turn(records):
        event = accepted(found)
        if event is not None:
            said = [(called, getattr(event.data, name, None)) for name, called in FIELDS.items()]
            given = {called: value for called, value in said if value is not None}
            details = ev._encoder.encode(given).decode() if given else None
            row = row_of(Logged(found.place, event))
            rows.append({**row, "logged_at": found.place.timestamp, "details": details})
    return pa.RecordBatch.from_pylist(rows, schema=EVENTS)


def check(rows: list[Row]) -> int:
    """Hold the columns of some records against the rows; return how many are no event."""
    records = batch_of(rows)
    decoder = Decoder(PARTITIONS)
    wanted = wanted_of(records).to_pylist()
    # Once more when it knows the forms of these.
    for _ in range(2):
        found = decoder.decode(records)
        found.events.validate(full=True)
        assert found.events.to_pylist() == wanted
        assert found.events.schema == EVENTS
        assert found.refused == len(rows) - len(found.events)
    return found.refused


# --- whatever there is


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw an event as it may be written, and its job's id."""
    body: Body = draw(bodies | wide_events())
    plain = draw(st.booleans())
    spaces = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", ":\r")]))
    indent = draw(st.sampled_from([None, None, None, 0]))
    value = json.dumps(
        {"id": "e1", **body}, ensure_ascii=plain, separators=spaces, indent=indent
    ).encode("utf-8", "surrogatepass")
    return value, body["subject"].encode()


@st.composite
def records(draw: st.DrawFn) -> Row:
    value, key = draw(texts())
    match draw(st.integers(0, 9)):
        case 0:
            begin = draw(st.integers(0, len(value)))
            end = min(len(value), begin + draw(st.integers(0, 3)))
            value = value[:begin] + draw(st.binary(max_size=3)) + value[end:]
        case 1:
            value = draw(st.sampled_from([b"", b"\n", b"{}", value + value, value[:-1], b" "]))
        case 2:
            key = draw(st.sampled_from([b"", b"other", b"\xff", key + b"x"]))
        case 3:
            return record(draw(st.sampled_from([value, None])), draw(st.sampled_from([key, None])))
        case 4:
            return record(value, key, partition=draw(st.integers(0, PARTITIONS)))
        case 5:
            name = draw(st.sampled_from([b"traceparent", b"\xff", b"", "é".encode()]))
            return record(value, key, headers=[{"name": name, "value": None}])
        case 6:
            return record(value, key, logged_at=draw(st.integers(-(2**62), 2**62)))
    return record(value, key)


@given(st.lists(records(), max_size=8))
@example([])
def test_columns_hold_what_accept_takes(rows: list[Row]) -> None:
    check(rows)


# --- what is not likely to be drawn


def event(kind: str = "completed", job: str = "job", **more: Any) -> bytes:
    found = {"specversion": "1.0", "id": "e", "source": "//s", "type": f"job.{kind}"}
    return json.dumps({**found, "subject": job, **more}, ensure_ascii=False).encode()


FINE = record(event())
DEEP = event(data={"output": "["}).replace(b'"["', b"[" * 257 + b"]" * 257)
ODD = {
    "no value": (record(None), True),
    "nothing": (record(b""), True),
    "a line": (record(b"\n"), True),
    "two lines": (record(b'{"specversion":\n' + event()[15:]), False),
    "half an event": (record(event()[:40]), True),
    "the other half": (record(event()[40:]), True),
    "two events": (record(event() + b" " + event()), True),
    "two events in two lines": (record(event() + b"\n" + event()), True),
    "an escaped control character": (record(event(id="a\u0001")), True),
    "an escaped letter": (record(event().replace(b'"e"', b'"\\u0065"')), False),
    "a control character beyond ASCII": (record(event(id="a\u0085")), True),
    "DEL": (record(event(id="a\x7f")), True),
    "no UTF-8 in what is passed over": (record(event(more="?").replace(b"?", b"\xff")), True),
    "no UTF-8 in output": (record(event(data={"output": "?"}).replace(b"?", b"\xff")), True),
    "too deep": (record(DEEP), True),
    "just not too deep": (record(DEEP.replace(b"[" * 3, b"", 1).replace(b"]]]", b"", 1)), False),
    "many brackets side by side": (record(event(data={"output": [[]] * 400})), False),
    "brackets in a string": (record(event(data={"output": "[" * 600})), False),
    "a large output": (record(event(data={"output": "x" * (64 * 1024 - 2)})), False),
    "too large an output": (record(event(data={"output": "x" * (64 * 1024 - 1)})), True),
    "too large a whole": (record(event(more="x" * 200_000)), True),
    "the year 1": (record(event(time="0001-06-01T00:00:00Z")), True),
    "the year 1, elsewhere": (record(event(time="0001-01-01T00:00:00+14:00")), True),
    "the year 2": (record(event(time="0002-01-01T00:00:00+14:00")), False),
    "the year 9998": (record(event(time="9998-12-31T23:59:59.999999-14:00")), False),
    "the year 9999": (record(event(time="9999-12-31T23:59:59-14:00")), True),
    "no time and no clock": (record(event(), logged_at=-(2**63) + 1), False),
    "another's key": (record(event(), b"other"), True),
    "no key": (record(event(), None), True),
    "another partition": (record(event(), partition=7), True),
    "a header's name": (record(event(), headers=[{"name": b"\xff", "value": b""}]), True),
    "a header": (record(event(), headers=[{"name": b"a", "value": b"\xff"}]), False),
}


@pytest.mark.parametrize(("odd", "is_refused"), ODD.values(), ids=ODD)
def test_a_record_is_judged_as_by_accept_beside_others(odd: Row, is_refused: bool) -> None:
    assert check([odd]) == is_refused
    assert check([FINE, odd, FINE]) == is_refused


def test_every_odd_record_among_many_good_ones() -> None:
    odd = [row for row, _ in ODD.values()]
    rows = [one for row in odd for one in [FINE] * 40 + [row]]
    assert check(rows) == sum(is_refused for _, is_refused in ODD.values())


def test_two_halves_of_an_event_do_not_make_one() -> None:
    halves = [record(event()[:40]), record(event()[40:])]
    assert check([FINE, *halves, record(event() + b" " + event())]) == 3


@pytest.mark.parametrize("empty", [b" ", b"\t\r ", event()[:-1], event() + b"\n", b"}"])
def test_two_events_in_one_record_do_not_stand_for_another_record(empty: bytes) -> None:
    twice = record(event() + b" " + event())
    refused = 2 if empty != event() + b"\n" else 1
    assert check([twice, record(empty)]) == refused
    assert check([FINE, record(empty), twice, FINE]) == refused
    begun = [record(b'{"specversion":"1.0","x":{}'), record(b"{}}")]
    assert check([FINE, *begun, twice]) == 3
    begun = [record(b'{"specversion":"1.0","x":"}'), record(b'{"}')]
    assert check([FINE, *begun, twice]) == 3


def test_a_part_of_a_batch_is_decoded_as_a_batch() -> None:
    rows = [record(event(job=name), name.encode()) for name in ("a", "bcd", "ef", "", "ghijk")]
    part = batch_of(rows).slice(1, 3)
    found = Decoder(PARTITIONS).decode(part)
    assert found.events.column("job_id").to_pylist() == ["bcd", "ef"]
    assert found.refused == 1


# --- partitions


@given(st.lists(st.text(max_size=40)), st.integers(1, 1024))
@example([str(number) for number in range(100)], 7)
def test_partitions_of_many_keys_are_those_of_each(keys: list[str], partitions: int) -> None:
    wanted = [partition_of(key, partitions) for key in keys]
    assert partitions_of([key.encode() for key in keys], partitions) == wanted
    content = np.frombuffer("".join(["before", *keys]).encode(), np.uint8)
    ends = np.cumsum([len(key.encode()) for key in ["before", *keys]])
    assert partitions_within(content, ends, partitions).tolist() == wanted
