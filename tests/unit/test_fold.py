"""Each rule of the fold by example; what is expected is typed from the contract, not from the code.

Events are made as JSON and decoded, so that the fold gets here what it gets from the log.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from jobtrail.core.events import MAX_TAGS, TYPE_NAMES, Event, decode, from_microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, event_key
from jobtrail.core.states import STATES, State
from jobtrail.core.trail import Verdict, read_trail

JOB = "cefb58a0-cd71-11ec-8e29-81c20d280994"
APPLIED, DUPLICATE = Verdict.APPLIED, Verdict.DUPLICATE
LATE, NOT_ALLOWED = Verdict.LATE, Verdict.NOT_ALLOWED

# `higher`: only by an event of a higher attempt. The row `unknown` is a job never seen before.
TABLE = """
from       created  active  retry  completed  failed  cancelled  expired
unknown    yes      yes     yes    yes        yes     yes        yes
created    no       yes     yes    yes        yes     yes        yes
active     no       higher  yes    yes        yes     yes        yes
retry      no       yes     no     yes        yes     yes        yes
completed  no       no      no     no         no      no         no
failed     no       higher  yes    no         no      no         no
cancelled  yes      higher  no     no         no      no         no
expired    no       higher  yes    no         no      no         no
"""
HEAD, *ROWS = [line.split() for line in TABLE.split("\n") if line]
CELLS = [(row[0], to, row[HEAD.index(to)]) for row in ROWS for to in HEAD[1:]]


def micros(second: int) -> int:
    """Return 13:00:00 of the day of all these events, and `second` seconds."""
    return (int(datetime(2026, 11, 23, 13, tzinfo=UTC).timestamp()) + second) * 1_000_000


def raw_event(kind: str, at: int | None = 1, named: str | None = None, **data: Any) -> bytes:
    """Return an event's JSON; its id is made from type and time unless it is `named`."""
    body: dict[str, Any] = {"specversion": "1.0", "id": named or f"{kind}@{at}", "type": kind}
    body |= {"source": "//billing/worker-7", "subject": JOB}
    if at is not None:
        body["time"] = f"2026-11-23T13:{at // 60:02}:{at % 60:02}Z"
    if kind == "job.created":
        data = {"jobType": "bulkPolicy", "owner": "alice"} | data
    return json.dumps(body | ({"data": data} if data else {})).encode()


def an(kind: str, at: int | None = 1, named: str | None = None, **data: Any) -> Event:
    return decode(raw_event(kind, at, named, **data))


def after(*events: Event, start: Job | None = None) -> tuple[Job, list[Verdict]]:
    """Fold events, each at the next offset and an hour later by the log's clock."""
    job, verdicts = start, []
    for offset, event in enumerate(events):
        job, verdict = fold(job, event, Place(3, offset, micros(0) + offset * 3_600_000_000))
        verdicts.append(verdict)
    assert job is not None
    return job, verdicts


def in_state(state: str, attempt: int = 0) -> Job:
    """Return a job with an owner that has come to a state at second 2."""
    job, _ = after(an("job.created", 1, attempt=attempt))
    return job if state == "created" else after(an(f"job.{state}", 2), start=job)[0]


def without_trail(job: Job) -> dict[str, Any]:
    return {**msgspec.structs.asdict(job), "trail": b""}


@pytest.mark.parametrize(("source", "target", "cell"), CELLS)
@pytest.mark.parametrize("step", [0, 1])
def test_every_cell_of_the_table(source: str, target: str, cell: str, step: int) -> None:
    before = None if source == "unknown" else in_state(source, attempt=1)
    job, (verdict,) = after(an(f"job.{target}", 9, attempt=1 + step), start=before)
    allowed = cell == "yes" or (cell == "higher" and step == 1)
    assert verdict is (APPLIED if allowed else NOT_ALLOWED)
    assert job.state.value == (target if allowed else source)


def test_attempt_starts_at_zero_or_where_the_first_event_says() -> None:
    assert after(an("job.created"))[0].attempt == 0
    assert after(an("job.active", attempt=4))[0].attempt == 4


@pytest.mark.parametrize("kind", [name for name in TYPE_NAMES if name != "job.created"])
def test_an_event_that_names_no_attempt_counts_as_the_current_one(kind: str) -> None:
    job, verdicts = after(an("job.created", 1, attempt=3), an(kind, 2))
    assert (job.attempt, verdicts) == (3, [APPLIED, APPLIED])


def test_active_after_retry_that_names_no_attempt_is_the_next() -> None:
    assert after(an("job.active", 9), start=in_state("retry", attempt=3))[0].attempt == 4


def test_active_after_retry_may_name_the_current_attempt() -> None:
    job, verdicts = after(an("job.active", 9, attempt=3), start=in_state("retry", attempt=3))
    assert (job.attempt, job.state, verdicts) == (3, State.ACTIVE, [APPLIED])


@pytest.mark.parametrize("state", ["active", "failed", "expired", "cancelled"])
def test_active_that_names_no_attempt_is_no_higher_one(state: str) -> None:
    job, verdicts = after(an("job.active", 9), start=in_state(state))
    assert (job.attempt, job.state.value, verdicts) == (0, state, [NOT_ALLOWED])


def test_an_applied_event_of_a_higher_attempt_raises_the_jobs() -> None:
    assert after(an("job.failed", 9, attempt=7), start=in_state("active"))[0].attempt == 7


@pytest.mark.parametrize("kind", TYPE_NAMES)
@pytest.mark.parametrize("state", STATES)
def test_an_event_of_a_lower_attempt_is_late_and_changes_nothing(kind: str, state: State) -> None:
    before = in_state(state, attempt=2)
    job, verdicts = after(an(kind, 9, attempt=1, tags={"a": "b"}), start=before)
    assert verdicts == [LATE]
    assert without_trail(job) == without_trail(before)


@pytest.mark.parametrize(("source", "target", "cell"), CELLS[7:])
def test_a_transition_not_in_the_table_changes_nothing(source: str, target: str, cell: str) -> None:
    before = in_state(source)
    event = an(f"job.{target}", 9, tags={"a": "b"})
    job, (verdict,) = after(event, start=before)
    # `active` after `retry` is the next attempt, so there "no attempt named" is no lower one.
    assert (verdict is APPLIED) is (cell == "yes")
    assert (without_trail(job) == without_trail(before)) is (cell != "yes")


@pytest.mark.parametrize("kind", TYPE_NAMES)
def test_an_event_delivered_again_is_a_duplicate(kind: str) -> None:
    once, _ = after(an(kind, 1))
    job, verdicts = after(an(kind, 1), an(kind, 1), start=once)
    assert verdicts == [DUPLICATE, DUPLICATE]
    assert without_trail(job) == without_trail(once)


def test_an_id_the_job_has_seen_is_a_duplicate_whatever_the_event_says() -> None:
    _, verdicts = after(an("job.created", named="x"), an("job.active", 2, named="x", attempt=5))
    assert verdicts == [APPLIED, DUPLICATE]


def test_duplicate_comes_before_late_and_late_before_not_allowed() -> None:
    before = in_state("completed", attempt=2)
    retry = an("job.retry", 9, attempt=1)
    _, verdicts = after(retry, retry, an("job.retry", 9, "other"), start=before)
    assert verdicts == [LATE, DUPLICATE, NOT_ALLOWED]


def test_an_event_first_ignored_and_delivered_again_stays_ignored() -> None:
    resume = an("job.created", 5, named="resume")
    job, verdicts = after(an("job.created", 1), resume, an("job.cancelled", 6), resume)
    assert verdicts == [APPLIED, NOT_ALLOWED, APPLIED, DUPLICATE]
    assert job.state is State.CANCELLED


def test_without_job_created_a_job_has_no_owner() -> None:
    job, _ = after(an("job.active"))
    assert (job.owner, job.job_type, job.bulk_id, job.viewers) == (None, None, None, ())


@pytest.mark.parametrize("kind", [f"job.{s}" for s in STATES if s not in ("created", "cancelled")])
def test_late_job_created_fills_in_what_a_job_is_and_whose(kind: str) -> None:
    known, _ = after(an(kind, 5, attempt=1, tags={"a": "kept", "b": "kept"}))
    about = {"owner": "bob", "jobType": "import", "bulkId": "b-17"}
    tags, viewers = {"a": "lost", "c": "new"}, ["user:z", "group:y", "user:z"]
    created = an("job.created", 3, **about, viewers=viewers, tags=tags)
    job, verdicts = after(created, start=known)
    assert verdicts == [LATE]
    assert (job.owner, job.job_type, job.bulk_id) == ("bob", "import", "b-17")
    assert job.viewers == ("group:y", "user:z")
    assert job.tags == {"a": "kept", "b": "kept", "c": "new"}
    assert job.created_at == micros(3)
    filled = ("owner", "job_type", "bulk_id", "viewers", "tags", "created_at")
    untouched = {k: v for k, v in without_trail(job).items() if k not in filled}
    assert untouched == {k: v for k, v in without_trail(known).items() if k not in filled}


def test_job_created_fills_in_a_job_first_seen_by_progress() -> None:
    job, verdicts = after(an("job.progress", 5, progress=0.5), an("job.created", 6))
    assert (job.state, job.owner, job.progress) == (State.CREATED, "alice", 0.5)
    assert (verdicts, job.created_at, job.updated_at) == ([APPLIED, LATE], micros(6), micros(5))


@pytest.mark.parametrize(("state", "attempt"), [("cancelled", 0), ("active", 0), ("active", 2)])
def test_late_job_created_of_another_attempt_fills_in_too(state: str, attempt: int) -> None:
    job, verdicts = after(an(f"job.{state}", attempt=1), an("job.created", 3, attempt=attempt))
    assert (job.state, job.owner, job.attempt) == (state, "alice", 1)
    assert verdicts == [APPLIED, LATE]


def test_only_the_first_late_job_created_fills_in() -> None:
    active, first = an("job.active", 5), an("job.created", 3)
    job, verdicts = after(active, first, first, an("job.created", 4, owner="mallory"))
    assert verdicts == [APPLIED, LATE, DUPLICATE, NOT_ALLOWED]
    assert (job.owner, job.created_at) == ("alice", micros(3))


def test_job_created_fills_in_a_job_first_seen_cancelled_without_touching_its_state() -> None:
    job, verdicts = after(an("job.cancelled", 5), an("job.created", 3))
    assert (job.owner, job.state, verdicts) == ("alice", State.CANCELLED, [APPLIED, LATE])
    assert (job.created_at, job.ended_at) == (micros(3), micros(5))


def test_job_created_of_a_higher_attempt_resumes_even_a_job_without_owner() -> None:
    job, verdicts = after(an("job.cancelled", 5), an("job.created", 6, attempt=1))
    assert (job.owner, job.state, job.attempt) == ("alice", State.CREATED, 1)
    assert (verdicts, job.ended_at) == ([APPLIED, APPLIED], None)


def test_created_at_is_the_time_of_the_only_job_created_even_if_that_one_resumes() -> None:
    events = an("job.cancelled", 5), an("job.created", 6, attempt=1)
    assert after(*events)[0].created_at == micros(6)


def test_created_at_is_the_time_of_job_created_else_of_the_first_event() -> None:
    assert after(an("job.created", 7), an("job.active", 8))[0].created_at == micros(7)
    assert after(an("job.active", 8), an("job.completed", 9))[0].created_at == micros(8)


def test_started_at_is_the_time_of_the_first_active() -> None:
    assert in_state("created").started_at is None
    again = [an("job.retry", 5), an("job.active", 6), an("job.active", 7, attempt=9)]
    assert after(*again, start=in_state("active"))[0].started_at == micros(2)
    assert after(an("job.active", 8))[0].started_at == micros(8)


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "expired"])
def test_ended_at_is_the_time_of_the_event_that_ended_it(state: str) -> None:
    job, _ = after(an("job.progress", 9, progress=1), start=in_state(state))
    assert job.ended_at == micros(2)
    assert after(an(f"job.{state}", 8))[0].ended_at == micros(8)


@pytest.mark.parametrize("state", ["created", "active", "retry"])
def test_ended_at_is_null_while_a_job_has_not_ended(state: str) -> None:
    assert in_state(state).ended_at is None


TAKEN_UP = [("failed", "retry"), ("failed", "active"), ("expired", "retry"), ("expired", "active")]
TAKEN_UP += [("cancelled", "created"), ("cancelled", "active")]


@pytest.mark.parametrize(("ended", "up"), TAKEN_UP)
def test_ended_at_is_null_again_when_the_job_is_taken_up_again(ended: str, up: str) -> None:
    job, verdicts = after(an(f"job.{up}", 9, attempt=1), start=in_state(ended))
    assert (verdicts, job.state.value, job.ended_at) == ([APPLIED], up, None)
    assert after(an("job.expired", 11), start=job)[0].ended_at == micros(11)


def test_updated_at_is_the_time_of_the_last_applied_event_even_an_earlier_time() -> None:
    before, _ = after(an("job.progress", 9), start=in_state("active", attempt=1))
    assert before.updated_at == micros(9)
    ignored = an("job.retry", 30, attempt=0), an("job.created", 31), an("job.progress", 9)
    assert after(*ignored, start=before)[0].updated_at == micros(9)
    assert after(an("job.completed", 4), start=before)[0].updated_at == micros(4)


def test_an_event_without_time_takes_the_logs_timestamp() -> None:
    job, _ = fold(None, an("job.active", None), Place(0, 5, 1_764_000_000_123_000))
    times = (job.created_at, job.started_at, job.updated_at, read_trail(job.trail)[0].time)
    assert times == (1_764_000_000_123_000,) * 4


ENDS = [(-(2**63), "0002-01-01T00:00:00"), (2**63 - 1, "9998-12-31T23:59:59.999999")]


@pytest.mark.parametrize(("clock", "end"), ENDS)
def test_the_logs_timestamp_is_kept_where_it_can_be_shown(clock: int, end: str) -> None:
    job, _ = fold(None, an("job.active", None), Place(0, 5, clock))
    assert from_microseconds(job.updated_at).isoformat() == f"{end}+00:00"


def test_an_event_with_a_time_does_not_look_at_the_logs_timestamp() -> None:
    first, second = (fold(None, an("job.active", 8), Place(0, 5, clock))[0] for clock in (1, 2))
    assert first == second


@pytest.mark.parametrize("state", STATES)
def test_progress_changes_no_state_and_is_not_allowed_on_an_ended_job(state: State) -> None:
    ended = state in ("completed", "failed", "cancelled", "expired")
    job, verdicts = after(an("job.progress", 9, progress=0.25), start=in_state(state))
    assert job.state is state
    assert verdicts == [NOT_ALLOWED if ended else APPLIED]
    assert (job.progress, job.updated_at == micros(9)) == (None if ended else 0.25, not ended)


def test_a_job_first_seen_by_progress_is_created() -> None:
    job, verdicts = after(an("job.progress", progress=1))
    assert (job.state, job.progress, verdicts) == (State.CREATED, 1.0, [APPLIED])


def test_a_figure_of_progress_stays_until_another_comes_or_a_higher_attempt_begins() -> None:
    halfway, _ = after(an("job.progress", 3, progress=0.5), start=in_state("active"))
    assert after(an("job.progress", 4, message="slow"), start=halfway)[0].progress == 0.5
    assert after(an("job.progress", 4, progress=0.25), start=halfway)[0].progress == 0.25
    assert after(an("job.retry", 4), start=halfway)[0].progress == 0.5
    assert after(an("job.retry", 4), an("job.active", 5), start=halfway)[0].progress is None
    assert after(an("job.progress", 5, attempt=1), start=halfway)[0].progress is None


@pytest.mark.parametrize("kind", [name for name in TYPE_NAMES if name != "job.created"])
def test_tags_of_any_applied_event_are_merged_the_later_value_wins(kind: str) -> None:
    first = an("job.created", 1, tags={"a": "1", "b": "1"})
    job, _ = after(first, an(kind, 2, tags={"b": "2", "c": "2"}))
    assert job.tags == {"a": "1", "b": "2", "c": "2"}


def test_a_job_keeps_its_first_32_tags_and_still_takes_new_values_of_them() -> None:
    assert MAX_TAGS == 32
    first, _ = after(an("job.created", 1, tags={f"t{n}": "old" for n in range(31)}))
    job, verdicts = after(an("job.active", 2, tags={"x": "1", "y": "1", "t0": "new"}), start=first)
    assert verdicts == [APPLIED]
    assert list(job.tags) == [f"t{n}" for n in range(31)] + ["x"]
    assert (job.tags["t0"], job.tags["t1"]) == ("new", "old")


def test_the_tags_of_a_late_job_created_count_as_the_first() -> None:
    created = an("job.created", 1, tags={f"t{n}": "1" for n in range(31)})
    job, _ = after(an("job.active", tags={"x": "1", "y": "1"}), created)
    assert list(job.tags)[30:] == ["t30", "x"]


@pytest.mark.parametrize("kind", ["job.completed", "job.failed"])
def test_output_is_kept_byte_for_byte(kind: str) -> None:
    output = '{ "b" : [1.0,  1e2,-0] ,"a":"\\u00e9 é \\/","a":null}'.encode()
    value = raw_event(kind, 2, output="@").replace(b'"@"', output)
    assert after(decode(value), start=in_state("active"))[0].output == output
    assert after(decode(value.replace(output, b"null")))[0].output == b"null"
    assert after(an(kind, 2), start=in_state("active"))[0].output is None


def test_output_is_cleared_when_a_job_is_taken_up_again() -> None:
    failed, _ = after(an("job.failed", 3, output=[1], error="e"))
    assert (failed.output, failed.error) == (b"[1]", b'"e"')
    assert after(an("job.active", 4, attempt=1), start=failed)[0].output is None


def test_error_is_that_of_the_last_failure_until_the_job_completes() -> None:
    retry, _ = after(an("job.retry", 3, error={"a": 1}), start=in_state("active"))
    active, _ = after(an("job.active", 4), start=retry)
    assert retry.error == active.error == b'{"a": 1}'
    assert after(an("job.failed", 5, error=2), start=active)[0].error == b"2"
    assert after(an("job.failed", 5), start=active)[0].error is None
    assert after(an("job.completed", 5), start=active)[0].error is None


def test_a_resuming_job_created_describes_the_job_anew_but_keeps_its_first_time() -> None:
    first = an("job.created", 1, bulkId="b", viewers=["user:x"], tags={"a": "1"})
    resume = an("job.created", 9, owner="bob", jobType="import", tags={"b": "2"})
    job, verdicts = after(first, an("job.cancelled", 5), resume)
    assert (verdicts[2], job.state, job.attempt) == (APPLIED, State.CREATED, 0)
    assert (job.owner, job.job_type, job.bulk_id, job.viewers) == ("bob", "import", None, ())
    assert job.tags == {"a": "1", "b": "2"}
    assert (job.created_at, job.updated_at) == (micros(1), micros(9))


@pytest.mark.parametrize("kind", TYPE_NAMES)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_the_given_job_is_not_changed(kind: str, state: State, attempt: int) -> None:
    given, _ = after(an("job.progress", 3, tags={"a": "1"}), start=in_state(state, attempt=1))
    before = msgspec.msgpack.encode(given)
    job, _ = after(an(kind, 9, attempt=attempt, tags={"a": "2", "b": "2"}), start=given)
    assert job is not given
    assert msgspec.msgpack.encode(given) == before


def test_the_trail_holds_every_event_with_its_verdict() -> None:
    seconds, codes = [1, 2, 3, 4, 5, 5, 7], [0, 3, 1, 2, 4, 4, 5]
    events = [an(TYPE_NAMES[code], at) for code, at in zip(codes, seconds, strict=True)]
    events[3] = an("job.progress", 4, attempt=0)
    job, verdicts = after(*events)
    assert verdicts == [APPLIED, APPLIED, APPLIED, LATE, APPLIED, DUPLICATE, NOT_ALLOWED]
    states = ["created", "retry", "active", "active", "completed", "completed", "completed"]
    keys, times = [event_key(event.id) for event in events], [micros(at) for at in seconds]
    expected = list(zip(keys, range(7), times, states, codes, verdicts, strict=True))
    assert read_trail(job.trail) == expected


def test_the_trail_of_a_late_job_created_holds_the_state_that_it_did_not_touch() -> None:
    trail = read_trail(after(an("job.failed", 5), an("job.created", 3))[0].trail)
    assert [(e.state, e.verdict) for e in trail] == [("failed", APPLIED), ("failed", LATE)]
