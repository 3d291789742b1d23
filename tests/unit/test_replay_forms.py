"""Records of a known form, held against `accept`: what they say, and what only looks like them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobtrail.core import events as ev
from jobtrail.replay.events.decoding import Decoder
from jobtrail.replay.forms.columns import Forms, read
from jobtrail.replay.forms.learning import form_of
from tests.replay_rows import Row
from tests.unit.test_replay_decoding import PARTITIONS, batch_of, record, wanted_of

SAID: dict[str, dict[str, Any]] = {
    "created": {
        "jobType": "etl",
        "owner": "alice",
        "bulkId": "b",
        "viewers": ["user:bob", "group:stewards"],
        "tags": {"tenant": "acme", "zone": ""},
        "attempt": 0,
    },
    "active": {"attempt": 1, "worker": "worker-7"},
    "progress": {"progress": 0.25, "message": "a quarter", "attempt": 3},
    "retry": {"error": {"code": 504, "message": "no answer"}, "attempt": 12},
    "completed": {"output": {"rows": 17, "parts": ["a", 1.5], "none": None}, "tags": {}},
    "failed": {"error": "gone", "output": 12, "attempt": 0},
    "cancelled": {"reason": "no longer needed"},
    "expired": {"attempt": 7, "tags": {"zone": "eu"}},
}
TIMES = ["2026-11-23T13:00:00Z", "2026-11-23T13:00:00.5Z", "2026-11-23T13:00:00.123456Z"]


def told(kind: str, job: str = "job", time: str | None = TIMES[0], **more: Any) -> bytes:
    """Return an event of a type as a producer writes it."""
    body = {"specversion": "1.0", "id": "e1", "source": "//s", "type": f"job.{kind}"}
    when = {} if time is None else {"time": time}
    whole = {**body, "subject": job, **when, "data": SAID.get(kind, {}), **more}
    return json.dumps(whole, separators=(",", ":")).encode()


def check(known: list[bytes], rows: list[Row]) -> int:
    """Hold the columns of rows against `accept`, when these values were read before them."""
    decoder = Decoder(PARTITIONS)
    decoder.decode(batch_of([record(value) for value in known]))
    records = batch_of(rows)
    found = decoder.decode(records)
    found.events.validate(full=True)
    assert found.events.to_pylist() == wanted_of(records).to_pylist()
    assert found.refused == len(rows) - len(found.events)
    return found.refused


def known_among(known: list[bytes], rows: list[Row]) -> list[bool]:
    """Tell which rows are read without parsing, when these values were read before them."""
    forms = Forms()
    for value in known:
        forms.learn(value, ev.decode(value))
    records = batch_of(rows)
    nothing = records.column("value").is_null().to_numpy(zero_copy_only=False)
    return list(read(records, nothing, forms).known)


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("time", [*TIMES, None])
def test_events_of_every_type_are_read_without_parsing(kind: str, time: str | None) -> None:
    known = [told(kind, time=time)]
    rows = [
        record(told(kind, job, time, id=number), job.encode())
        for number, job in [("a", "job"), ("x" * 256, "another"), ("?", "j" * 256)]
    ]
    assert known_among(known, rows) == [True] * 3
    assert check(known, [*rows, record(b"{}"), *rows]) == 1


def test_types_that_say_the_same_share_a_form() -> None:
    same = {"attempt": 1, "tags": {"zone": "eu"}}
    kinds = [kind for kind in SAID if kind != "created"]
    forms = {form_of(told(k, data=same), ev.decode(told(k, data=same))) for k in kinds}
    assert len(forms) == 1
    assert check([told("active", data=same)], [record(told(k, data=same)) for k in SAID]) == 1


# --- what may stand in the place of a text or a number

TEXTS = [
    "",
    "a",
    "x" * 256,
    "x" * 257,
    "x" * 4097,
    "é",
    "\\u0041",
    "\\",
    "\x7f",
    "\x01",
    "\n",
    " ",
    "user:",
    "user:x",
    "group:",
    "group:" + "x" * 256,
    "group:" + "x" * 257,
    "nobody:x",
    "job.active",
    "job.created",
    "job.progress",
    "job.none",
    '","id":"other',
    *TIMES,
    "2026-11-23t13:00:00z",
    "2026-11-23 13:00:00Z",
    "2026-11-23T13:00:00",
    "2026-11-23T13:00:00+00:00",
    "2026-11-23T13:00:00-01:00",
    "2026-11-23T13:00:00.Z",
    "2026-11-23T13:00:00.1234567Z",
    "2026-11-23T13:00:60Z",
    "2026-11-23T24:00:00Z",
    "2026-11-23T13:60:00Z",
    "2026-02-29T13:00:00Z",
    "2028-02-29T13:00:00Z",
    "2026-13-01T13:00:00Z",
    "2026-00-01T13:00:00Z",
    "2026-11-00T13:00:00Z",
    "2026-11-23T13:0a:00Z",
    "2026-11-23T 1:00:00Z",
    "2026-11-23T13:00:00.1a3Z",
    "2026-11-23T13:00:00,123Z",
    "0000-01-01T00:00:00Z",
    "0001-12-31T23:59:59Z",
    "0002-01-01T00:00:00Z",
    "9998-12-31T23:59:59.999999Z",
    "9999-01-01T00:00:00Z",
]
NUMBERS = [
    *("0", "1", "2", "7", "10", "00", "01", "-1", "-0", "1.", ".5", "1.0", "0.5", "0.50", "1.5"),
    *("0.1", "0.30000000000001", "0.12345678901234", "0.123456789012345", "0.99999999999999999"),
    *("1e0", "1E2", "1.0.0", "0..5", "", "1a", "999999999", "2147483647", "2147483648"),
    *("9" * 16, "9" * 17, "null", "true", '"1"', "[1]", "1,2", "1 ", " 1", "1}", "-", "+1", "0x1"),
]
PLACE = re.compile(rb'(?<=:)"[^"]*"|(?<=[\[,])"[^"]*"(?=[\],])|(?<=:)-?[0-9.]+|(?<=,)[0-9.]+(?=\])')


@st.composite
def changed(draw: st.DrawFn, value: bytes) -> bytes:
    """Draw a value that differs in some places, each of which may hold what it should not."""
    places = list(PLACE.finditer(value))
    for place in reversed(draw(st.lists(st.sampled_from(places), max_size=3, unique=True))):
        if place[0].startswith(b'"'):
            text = draw(st.sampled_from(TEXTS) | st.text(max_size=8))
            new = f'"{text}"'.encode("utf-8", "replace")
        else:
            new = draw(st.sampled_from(NUMBERS)).encode()
        # From the last to the first, lest the others move.
        if place.end() <= len(value):
            value = value[: place.start()] + new + value[place.end() :]
    return value


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[list[bytes], list[Row]]:
    """Draw values that are known, and records that are much like them."""
    kinds = draw(st.lists(st.sampled_from(list(SAID)), min_size=1, max_size=3))
    time = draw(st.sampled_from([*TIMES, None]))
    known = [told(kind, time=time) for kind in kinds]
    rows = []
    for value in draw(st.lists(st.sampled_from(known), max_size=6)):
        new = draw(changed(value))
        match draw(st.integers(0, 9)):
            case 0:
                at = draw(st.integers(0, len(new)))
                new = new[:at] + draw(st.binary(max_size=2)) + new[at + draw(st.integers(0, 2)) :]
            case 1:
                rows.append(record(None))
        rows.append(record(new, draw(st.sampled_from([b"job", b"job", b"job", b"a", b"", None]))))
    return known, rows


@given(neighbours())
@example(([told("active")], []))
def test_what_looks_like_a_known_form_is_what_accept_makes_of_it(
    drawn: tuple[list[bytes], list[Row]],
) -> None:
    check(*drawn)


@pytest.mark.parametrize("kind", SAID)
def test_every_place_with_everything_in_it(kind: str) -> None:
    value = told(kind)
    rows = []
    for place in PLACE.finditer(value):
        is_text = place[0].startswith(b'"')
        rows += [
            record(value[: place.start()] + new.encode() + value[place.end() :])
            for new in ([f'"{text}"' for text in TEXTS] if is_text else NUMBERS)
        ]
    known = [value]
    assert check(known, rows) > 0
    # Each by itself: an instant that is none sends all of its batch to the decoder.
    for row in rows[::3]:
        check(known, [record(value), row])


# --- what has no form

UNFORMED = {
    "a name twice": told("active").replace(b'"id":"e1"', b'"id":"e1","id":"e2"'),
    "a tag twice": told("expired").replace(b'"zone":"eu"', b'"zone":"eu","zone":"us"'),
    "an escape": told("active", id="a\nb").replace(b"\\n", b"\\u0041"),
    "beyond ASCII": json.dumps(json.loads(told("active", id="é")), ensure_ascii=False).encode(),
    "an instant that is written anew": told("retry", data={"retryAt": TIMES[0]}),
    "an exponent": told("completed", data={"output": [1e30]}),
    "a sign": told("completed", data={"output": -1}),
    "two numbers side by side": told("completed", data={"output": [1, 2]}),
    "many places": told("completed", data={"output": ["x"] * 200}),
    "a large record": told("completed", data={"output": "x" * 10_000}),
}


@pytest.mark.parametrize("value", UNFORMED.values(), ids=UNFORMED)
def test_what_has_no_form_is_parsed(value: bytes) -> None:
    assert form_of(value, ev.decode(value)) is None
    assert check([value], [record(value)] * 3) == 0


def test_forms_and_looks_for_them_are_bounded() -> None:
    decoder = Decoder(PARTITIONS)
    for number in range(80):
        values = [told("active", data={f"n{number}-{other}": 1}) for other in range(64)]
        records = batch_of([record(value) for value in values])
        assert len(decoder.decode(records).events) == len(values)
    check([told("active", data={f"n{n}": 1}) for n in range(100)], [record(told("active"))])
