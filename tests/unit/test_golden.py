"""Golden events: names and fields of events, and codes of a trail, are a storage format.

The log keeps events for ever. A golden file is never changed; one that no longer decodes to what
stands here means that old logs can't be read. A file `dead-REASON.json` holds, in parts, the value
of a record that goes to the dead-letter topic for that reason.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from jobtrail.core import events as ev
from jobtrail.core.errors import EventError
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, event_key
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import STATES
from jobtrail.core.trail import VERDICTS, TrailEntry, read_trail

GOLDEN = Path(__file__).parent / "golden"
LIVE = sorted(path.stem for path in GOLDEN.glob("*.json") if not path.stem.startswith("dead-"))
DEAD = sorted(path.stem for path in GOLDEN.glob("dead-*.json"))
JOB = "cefb58a0-cd71-11ec-8e29-81c20d280994"
EU = {"zone": "eu"}


def minimal(number: int) -> dict[str, Any]:
    name = f"01JD0000000000000000000{number}"
    return {"specversion": "1.0", "id": name, "source": "//billing/worker-7", "subject": JOB}


def full(number: int) -> dict[str, Any]:
    time = datetime(2026, 11, 23, 13, 0, number, 123_000, tzinfo=UTC)
    return minimal(0) | {
        "id": f"01JD000000000000000000000{number}",
        "time": time,
        "datacontenttype": "application/json",
    }


def bound(number: int) -> dict[str, Any]:
    """Return what stands in an event of a worker with a key of its own."""
    sources = "//billing/a%20pool //billing/worker-7"
    return minimal(0) | {"id": f"01JD000000000000000000020{number}", "bound_to": sources}


EXPECTED: dict[str, ev.Event] = {
    "created-minimal": ev.Created(
        **minimal(101), data=ev.CreatedData(job_type="bulkPolicy", owner="alice")
    ),
    "active-minimal": ev.Active(**minimal(102)),
    "progress-minimal": ev.Progress(**minimal(103)),
    "retry-minimal": ev.Retry(**minimal(104)),
    "completed-minimal": ev.Completed(**minimal(105)),
    "failed-minimal": ev.Failed(**minimal(106)),
    "cancelled-minimal": ev.Cancelled(**minimal(107)),
    "expired-minimal": ev.Expired(**minimal(108)),
    "created-bound": ev.Created(
        **bound(1) | {"source": "//billing/api", "bound_to": "//billing/api"},
        data=ev.CreatedData(
            job_type="bulkPolicy",
            owner="alice",
            writers=("//billing/worker-7", "//billing/worker-8"),
        ),
    ),
    "active-bound": ev.Active(**bound(2)),
    "progress-bound": ev.Progress(**bound(3)),
    "retry-bound": ev.Retry(**bound(4)),
    "completed-bound": ev.Completed(**bound(5)),
    "failed-bound": ev.Failed(**bound(6)),
    "cancelled-bound": ev.Cancelled(**bound(7)),
    "expired-bound": ev.Expired(**bound(8)),
    "created-full": ev.Created(
        **full(1),
        data=ev.CreatedData(
            job_type="bulkPolicy",
            owner="alice",
            bulk_id="b-17",
            viewers=("group:stewards", "user:bob"),
            tags={"tenant": "acme", "note": ""},
            attempt=0,
        ),
    ),
    "active-full": ev.Active(**full(2), data=ev.ActiveData(worker="worker-7", attempt=1, tags=EU)),
    "progress-full": ev.Progress(
        **full(3),
        data=ev.ProgressData(progress=0.25, message="250 of 1000", attempt=1, tags=EU),
    ),
    "retry-full": ev.Retry(
        **full(4),
        data=ev.RetryData(
            error=Raw(b'{"code": "E_TIMEOUT", "after": 30}'),
            retry_at=datetime(2026, 11, 23, 13, 5, 0, 500_000, tzinfo=UTC),
            attempt=1,
            tags=EU,
        ),
    ),
    "completed-full": ev.Completed(
        **full(5),
        data=ev.CompletedData(
            output=Raw('{"rows": 1000, "ratio": 1.0, "name": "é"}'.encode()), attempt=2, tags=EU
        ),
    ),
    "failed-full": ev.Failed(
        **full(6),
        data=ev.FailedData(error=Raw(b'"disk full"'), output=Raw(b"[1, null]"), attempt=2, tags=EU),
    ),
    "cancelled-full": ev.Cancelled(
        **full(7), data=ev.ReasonData(reason="no longer needed", attempt=2, tags=EU)
    ),
    "expired-full": ev.Expired(
        **full(8),
        data=ev.ReasonData(reason="15 minutes without a sign of life", attempt=2, tags=EU),
    ),
}


# --- what is in the log


@pytest.mark.parametrize("name", LIVE)
def test_a_golden_event_decodes_to_what_it_always_meant(name: str) -> None:
    assert ev.decode((GOLDEN / f"{name}.json").read_bytes()) == EXPECTED[name]


def with_instants(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an event's fields with its times as instants: they are written in UTC."""
    for place, key in ((fields, "time"), (fields["data"], "retryAt")):
        if key in place:
            place[key] = datetime.fromisoformat(place[key])
    return fields


@pytest.mark.parametrize("name", LIVE)
def test_a_golden_event_is_written_again_with_the_same_fields(name: str) -> None:
    value = (GOLDEN / f"{name}.json").read_bytes()
    written, golden = json.loads(ev.encode(ev.decode(value))), json.loads(value)
    assert with_instants(written) == with_instants({"data": {}} | golden)


def test_every_type_has_golden_files_and_every_golden_file_an_expectation() -> None:
    assert sorted(EXPECTED) == LIVE
    for kind in ("minimal", "full", "bound"):
        types = {type(event) for name, event in EXPECTED.items() if name.endswith(kind)}
        assert types == set(ev.EVENT_TYPES)


def test_golden_events_have_every_field_of_their_type() -> None:
    for kind in ev.EVENT_TYPES:
        names = [name for name in LIVE if type(EXPECTED[name]) is kind]
        found = [json.loads((GOLDEN / f"{name}.json").read_bytes()) for name in names]
        event = EXPECTED[names[0]]
        # Bytes are never data: of them there is no golden one.
        fields = {"type", *event.__struct_encode_fields__} - {"data_base64"}
        assert set().union(*found) == fields
        said = set().union(*(golden.get("data", {}) for golden in found))
        assert said == set(event.data.__struct_encode_fields__)


# --- codes in a store


def test_the_order_of_types_states_and_verdicts_is_that_of_their_codes() -> None:
    states = ["created", "active", "retry", "completed", "failed", "cancelled", "expired"]
    types = ["created", "active", "progress", "retry", "completed", "failed", "cancelled"]
    assert [state.value for state in STATES] == states
    assert list(ev.TYPE_NAMES) == [f"job.{name}" for name in [*types, "expired"]]
    assert [cls.__name__.lower() for cls in ev.EVENT_TYPES] == [*types, "expired"]
    verdicts = ["applied", "duplicate", "late", "not-allowed", "foreign"]
    assert [verdict.value for verdict in VERDICTS] == verdicts


def test_an_entry_of_a_trail_is_these_26_bytes_since_schema_3() -> None:
    key = event_key("01JD0000000000000000000001")
    entry = TrailEntry(key, 1043, 1_795_438_801_123_000, STATES[1], 1, VERDICTS[2])
    packed = bytes.fromhex("7593f07bc244f221 1304000000000000 b8f6f42bf1600600 01 12")
    assert read_trail(packed) == [entry]
    event = ev.Active(
        specversion="1.0",
        id="01JD0000000000000000000001",
        source="//producer.example",
        subject="job",
        time=ev.from_microseconds(entry.time),
        data=ev.ActiveData(attempt=0),
    )
    begun = Job(id="job", state=STATES[1], created_at=0, updated_at=0, attempt=1)
    assert fold(begun, event, Place(0, entry.offset, 0))[0].trail == packed


# --- what is in the dead-letter topic


def parts_of(value: list[Any]) -> bytes:
    """Put a dead value together: text, `{hex}` bytes, and `{text, times}`."""
    parts: list[Any] = [{"text": part} if isinstance(part, str) else part for part in value]
    return b"".join(
        bytes.fromhex(part.get("hex", "")) + part.get("text", "").encode() * part.get("times", 1)
        for part in parts
    )


@pytest.mark.parametrize("name", [name for name in DEAD if name != "dead-wrong-partition"])
def test_a_dead_value_is_refused_for_its_reason(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_bytes())
    with pytest.raises(EventError) as refused:
        ev.decode(parts_of(golden["value"]))
    assert refused.value.reason == golden["reason"]
    assert not refused.value.retriable


def test_a_valid_event_in_another_partition_than_its_keys_is_dead() -> None:
    golden = json.loads((GOLDEN / "dead-wrong-partition.json").read_bytes())
    job = ev.decode(parts_of(golden["value"])).subject
    assert partition_of(job, golden["partitions"]) == 3 != golden["partition"]


def test_every_reason_has_a_golden_file() -> None:
    reasons = {json.loads((GOLDEN / f"{name}.json").read_bytes())["reason"] for name in DEAD}
    decoding = {"no-value", "too-large", "not-utf-8", "not-json", "invalid"}
    assert reasons == decoding | {"wrong-partition"}


def test_a_record_without_a_value_is_dead() -> None:
    with pytest.raises(EventError) as refused:
        ev.decode(None)
    assert refused.value.reason == "no-value"


def changed(**fields: Any) -> bytes:
    """Return a full `job.created` with other fields; those of its data with `data_` in front."""
    golden = json.loads((GOLDEN / "created-full.json").read_bytes())
    for name, value in fields.items():
        place = golden["data"] if name.startswith("data_") else golden
        place[name.removeprefix("data_")] = value
    return json.dumps(golden).encode()


BOUNDS = [("id", 256), ("source", 256), ("subject", 256), ("data_owner", 256)]
BOUNDS += [("data_jobType", 256), ("data_bulkId", 256)]


@pytest.mark.parametrize(("field", "most"), BOUNDS)
@pytest.mark.parametrize("letter", ["x", "é", "😀"])
def test_names_have_1_to_256_characters(field: str, most: int, letter: str) -> None:
    assert ev.decode(changed(**{field: letter})) != ev.decode(changed(**{field: letter * most}))
    for wrong in ("", letter * (most + 1)):
        with pytest.raises(EventError, match="length"):
            ev.decode(changed(**{field: wrong}))


@pytest.mark.parametrize(("field", "most"), BOUNDS)
@pytest.mark.parametrize("control", ["\0", "\n", "\x1f", "\x7f", "\x85", "\x9f"])
def test_names_have_no_control_characters(field: str, most: int, control: str) -> None:
    for wrong in (control, f"a{control}b", f"a{control}"):
        with pytest.raises(EventError) as refused:
            ev.decode(changed(**{field: wrong}))
        assert refused.value.reason == "invalid"


INVALID: list[dict[str, Any]] = [
    {"specversion": "0.3"},
    {"datacontenttype": "text/plain"},
    {"time": "2026-11-23T13:00:00"},
    {"data": {"owner": "alice"}},
    {"data": {"jobType": "bulkPolicy"}},
    {"data_attempt": -1},
    {"data_attempt": 0.5},
    {"data_viewers": ["alice"]},
    {"data_viewers": ["user:"]},
    {"data_viewers": ["role:x"]},
    {"data_viewers": ["user:a\nb"]},
    {"data_viewers": ["user:alice", "group:\x85"]},
    {"data_tags": {"a": "\0"}},
    {"data_tags": {"a\n": "x"}},
    {"data_tags": {"a": 1}},
    {"data_tags": {"a": {"b": "c"}}},
    {"data_tags": {"": "x"}},
    {"data_tags": {f"t{n}": "" for n in range(33)}},
    {"type": "job.progress", "data": {"progress": 1.01}},
    {"type": "job.progress", "data": {"progress": -0.01}},
]


@pytest.mark.parametrize("fields", INVALID, ids=lambda fields: json.dumps(fields)[:40])
def test_an_event_that_breaks_the_schema_is_invalid(fields: dict[str, Any]) -> None:
    with pytest.raises(EventError) as refused:
        ev.decode(changed(**fields))
    assert refused.value.reason == "invalid"


def test_32_tags_and_the_ends_of_progress_are_valid() -> None:
    assert len(ev.decode(changed(data_tags={f"t{n}": "" for n in range(32)})).data.tags or {}) == 32
    for figure in (0, 1):
        event = ev.decode(changed(type="job.progress", data={"progress": figure}))
        assert isinstance(event, ev.Progress)
        assert event.data.progress == figure


PAYLOADS = ["completed.output", "failed.output", "failed.error", "retry.error"]


@pytest.mark.parametrize(("kind", "field"), [payload.split(".") for payload in PAYLOADS])
def test_output_and_error_have_64_kib_at_most(kind: str, field: str) -> None:
    most = 64 * 1024
    event = ev.decode(changed(type=f"job.{kind}", data={field: "x" * (most - 2)}))
    assert len(bytes(getattr(event.data, field))) == most
    with pytest.raises(EventError) as refused:
        ev.decode(changed(type=f"job.{kind}", data={field: "x" * (most - 1)}))
    assert refused.value.reason == "too-large"


# --- what everyone who folds has to refuse alike


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_can_not_be_told_in_utc_is_refused(time: str) -> None:
    with pytest.raises(EventError) as refused:
        ev.decode(changed(time=time))
    assert refused.value.reason == "invalid"


def test_an_output_that_is_given_as_empty_is_left_out() -> None:
    event = ev.Completed(**minimal(105), data=ev.CompletedData(output=Raw()))
    assert ev.decode(ev.encode(event)) == event


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize(("nesting", "refused"), [(254, False), (255, True), (700, True)])
def test_nesting_is_bounded_alike_however_deep_in_calls(
    opens: str, closes: str, nesting: int, refused: bool
) -> None:
    nested = json.loads(opens * (nesting - 1) + opens[0] + closes * nesting)
    value = changed(type="job.completed", data={"output": nested, "tags": {"a": "[" * 200}})

    def judged_below(calls: int) -> str:
        if calls:
            return judged_below(calls - 1)
        try:
            ev.decode(value)
        except EventError as error:
            return error.reason
        return "accepted"

    assert judged_below(0) == judged_below(400) == ("invalid" if refused else "accepted")
