"""Rows at work: which events become of the values of a row, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.events import decode
from jobtrail.importing.mapping import Mapping, read_mapping
from jobtrail.importing.rules import Maker
from jobtrail.importing.values import Fault

TOP: Final = 'source = "//s"\n'
RULE: Final = '[[event]]\ntype = "active"\njob = "id"\ntime = "at"\n'
AT: Final = "2026-01-01T00:00:00Z"


def mapping(folder: Path, text: str) -> Mapping:
    file = folder / "map.toml"
    file.write_text(text)
    return read_mapping(file)


# --- one row


def one(folder: Path, text: str, **row: object) -> list[dict[str, Any]]:
    """Return the events of one row of NDJSON, or raise its Fault."""
    maker = Maker(mapping(folder, TOP + text))
    made = maker.events([row.get(column) for column in maker.columns])
    for event in made:
        decode(event.value)
    return [json.loads(event.value) for event in made]


def test_a_row_is_each_event_whose_rule_applies(tmp_path: Path) -> None:
    text = (
        '[[event]]\ntype = "created"\njob = "id"\ntime = "a"\njob_type = "{q}/{id}"\n'
        'owner = { constant = "al" }\nbulk_id = "b"\nviewers = ["user:{q}", "v", "w"]\n'
        'tags.q = "q"\ntags.none = "none"\n'
        '[[event]]\ntype = "job.failed"\nwhen = [{ not_null = "z" }, '
        '{ column = "s", in = ["bad", 3, true] }]\njob = "id"\ntime = { column = "z", '
        'format = "s" }\nerror = "e"\noutput = { column = "o", json = true }\nattempt = "n"\n'
    )
    values = {"id": 7, "a": AT, "q": "x", "w": ["group:g", None, "user:u"], "z": "3.5"}
    created, failed = one(
        tmp_path, text, **values, s=True, e={"code": [1.5, None]}, o='{"a" : 1.00}', n="2"
    )
    assert created["data"] == {
        "jobType": "x/7",
        "owner": "al",
        "viewers": ["user:x", "group:g", "user:u"],
        "tags": {"q": "x"},
    }
    assert (created["source"], created["subject"], created["time"]) == ("//s", "7", AT)
    assert failed["time"] == "1970-01-01T00:00:03.500000Z"
    assert failed["data"] == {"attempt": 2, "error": {"code": [1.5, None]}, "output": {"a": 1.0}}
    for status in ("bad", 3, "3", "true"):
        assert len(one(tmp_path, text, **values, s=status)) == 2
    for status in ("good", None, 3.5, ["bad"], False):
        assert len(one(tmp_path, text, **values, s=status)) == 1


def test_json_in_a_text_is_kept_byte_for_byte(tmp_path: Path) -> None:
    text = RULE.replace("active", "completed") + 'output = { column = "o", json = true }\n'
    maker = Maker(mapping(tmp_path, TOP + text))
    (made,) = maker.events([AT, "j", '{"b" : 1.00, "a":1e300}'])
    assert b'"output":{"b" : 1.00, "a":1e300}' in made.value


@pytest.mark.parametrize(
    ("condition", "applying"),
    [
        ('{ null = "s" }', {None}),
        ('{ not_null = "s" }', {"a", "b"}),
        ('{ column = "s", equals = "a" }', {"a"}),
        ('{ column = "s", not_in = ["a"] }', {"b", None}),
        ("[]", {"a", "b", None}),
    ],
)
def test_conditions(tmp_path: Path, condition: str, applying: set[str | None]) -> None:
    text = RULE + f'when = {condition}\nworker = "s"\n'
    found = {value for value in ("a", "b", None) if one(tmp_path, text, id="j", at=AT, s=value)}
    assert found == applying


@pytest.mark.parametrize(
    ("text", "row", "column", "reason"),
    [
        (RULE, {"at": AT}, "id", "job: expected a value, found none"),
        (RULE, {"id": "j"}, "at", "time: expected a value, found none"),
        (RULE, {"id": "j", "at": "soon"}, "at", "expected an instant in ISO 8601, found 'soon'"),
        (RULE, {"id": "j", "at": "2026-01-01"}, "at", "as no zone is declared"),
        (RULE, {"id": "j", "at": 5}, "at", "as no other format is declared, found 5"),
        (RULE, {"id": "", "at": AT}, "id", "length >= 1"),
        (RULE, {"id": "x" * 257, "at": AT}, "id", "length <= 256"),
        (RULE, {"id": "a\0", "at": AT}, "", "control character"),
        (RULE, {"id": ["a"], "at": AT}, "id", "expected a text, a number or a truth value"),
        (RULE, {"id": "j", "at": "0001-01-01T00:00:00Z"}, "", "a year from"),
        (RULE + 'attempt = "n"', {"id": "j", "at": AT, "n": "x"}, "n", "a whole number"),
        (RULE + 'attempt = "n"', {"id": "j", "at": AT, "n": -1}, "n", ">= 0"),
        (RULE + 'attempt = "n"', {"id": "j", "at": AT, "n": True}, "n", "a whole number"),
        (RULE + 'worker = "{n}/{m}"', {"id": "j", "at": AT, "n": {}, "m": 1}, "n, m", "a text"),
        (
            RULE.replace("active", "progress") + 'progress = "n"',
            {"id": "j", "at": AT, "n": "half"}, "n", "a number, found 'half'",
        ),
        (
            RULE.replace("active", "failed") + 'error = { column = "n", json = true }',
            {"id": "j", "at": AT, "n": "{"}, "n", "expected JSON, found '{'",
        ),
        (
            RULE.replace('"active"', '{ column = "n", values = { a = "active" } }'),
            {"id": "j", "at": AT, "n": "b"}, "n", "type: expected one of a, found 'b'",
        ),
        (
            RULE.replace('"active"', '{ column = "n" }')
            + 'owner = "o"\njob_type = "o"',
            {"id": "j", "at": AT, "n": "made"}, "n", "an event type, as created",
        ),
        (
            RULE.replace('"active"', '{ column = "n" }')
            + 'owner = "o"\njob_type = "o"',
            {"id": "j", "at": AT, "n": "created"}, "o", "expected a value, found none",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_its_column(
    tmp_path: Path, text: str, row: dict[str, object], column: str, reason: str
) -> None:
    with pytest.raises(Fault) as raised:
        one(tmp_path, text, **row)
    assert raised.value.column == column
    assert reason in raised.value.reason


def test_values_defaults_and_types_by_column(tmp_path: Path) -> None:
    text = RULE.replace(
        '"active"', '{ column = "n", values = { a = "job.active" }, default = "progress" }'
    )
    text += 'worker = { column = "w", default = "nobody" }\nprogress = "p"\n'
    row = {"id": "j", "at": AT, "p": 0.5}
    (active,) = one(tmp_path, text, **row, n="a")
    assert (active["type"], active["data"]) == ("job.active", {"worker": "nobody"})
    for other in ("b", None):
        (progress,) = one(tmp_path, text, **row, n=other)
        assert (progress["type"], progress["data"]) == ("job.progress", {"progress": 0.5})


# --- any row at all

ANY: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=300)
    | st.binary(max_size=9)
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.sampled_from(["active", "created", "failed", AT, "user:x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
EVERYTHING: Final = (
    TOP
    + '[[event]]\ntype = { column = "type" }\njob = "job"\ntime = "time"\n'
    + 'when = { column = "when", not_in = ["x"] }\nidentity = ["when"]\n'
    + "".join(
        f'{key} = "{key}"\n'
        for key in (
            "job_type", "owner", "bulk_id", "attempt", "worker", "progress", "message",
            "error", "retry_at", "output", "reason",
        )
    )
    + 'viewers = ["viewers", "user:{owner}"]\ntags.a = "{owner}{worker}"\n'
)  # fmt: skip


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(mapping(tmp_path_factory.mktemp("map"), EVERYTHING))


@given(st.data())
def test_any_row_is_valid_events_or_a_fault(everything: Maker, data: st.DataObject) -> None:
    likely = {"type": "active", "job": "j", "time": AT}
    values = [
        data.draw(ANY | st.just(likely[column]) if column in likely else st.none() | ANY)
        for column in everything.columns
    ]
    try:
        made = everything.events(values)
    except Fault:
        return
    assert made == everything.events(values)
    for event in made:
        found = decode(event.value)
        assert (found.subject, found.__struct_config__.tag) == (event.job, event.type)


NAMES: Final = st.text("ab\x1f\"'\\{", max_size=3)


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=2, max_size=2, unique=True))
def test_other_identities_are_other_ids(tmp_path_factory: Any, found: list[Any]) -> None:
    text = TOP + RULE + 'identity = ["x", "y"]\n'
    maker = Maker(mapping(tmp_path_factory.mktemp("map"), text))
    assert maker.columns == ("at", "id", "x", "y")
    ids = {
        msgspec.json.decode(maker.events([AT, "j" + job.replace("\x1f", ""), x, y])[0].value)["id"]
        for job, x, y in found
    }
    assert len(ids) == len({(job.replace("\x1f", ""), x, y) for job, x, y in found})


def test_ids_come_from_what_a_row_says(tmp_path: Path) -> None:
    def identity(text: str = RULE + 'worker = "w"\nattempt = "n"\n', **row: object) -> str:
        (event,) = one(tmp_path, text, **{"id": "j", "at": AT, "w": "x", "n": 1, **row})
        return str(event["id"])

    first = identity()
    assert identity(w="y") == first
    assert identity(at="2026-01-01T01:00:00+01:00") == first
    others = [
        identity(id="k"),
        identity(at="2026-01-01T00:00:00.000001Z"),
        identity(n=2),
        identity(RULE + 'name = "other"\n'),
        identity(RULE.replace("active", "retry")),
    ]
    assert len({first, *others}) == 6
    by_column = RULE + 'worker = "w"\nidentity = ["w"]\n'
    assert identity(by_column) == identity(by_column, at="2027-01-01T00:00:00Z", n=5)
    assert identity(by_column) != identity(by_column, w="y")
