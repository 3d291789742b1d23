"""Properties of events, fold and trail, and the fold against a model that remembers instead.

The model keeps everything that it was told as dicts and strings, and answers each question by
looking through that history. It is written from the contract and shares no line with the fold.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobtrail.core.errors import EventError
from jobtrail.core.events import decode, encode, from_microseconds, microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, kept_trail
from jobtrail.core.states import STATES
from jobtrail.core.trail import VERDICTS, read_trail

Body = dict[str, Any]

# --- the model

ENDED = ("completed", "failed", "cancelled", "expired")
# `+`: only by a higher attempt.
MOVES = {
    "created": "active retry completed failed cancelled expired",
    "active": "active+ retry completed failed cancelled expired",
    "retry": "active completed failed cancelled expired",
    "failed": "retry active+",
    "expired": "retry active+",
    "cancelled": "created active+",
    "completed": "",
}


def facts(history: list[Body]) -> Body:
    """Answer what is known of a job from all that was delivered for it."""
    applied = [h for h in history if h["verdict"] == "applied"]
    moves = [h for h in applied if h["type"] != "job.progress"]
    told = [h for h in history if h["tells"]]
    starts = [h["at"] for h in moves if h["type"] == "job.active"]
    failures = [h for h in moves if h["type"] in ("job.retry", "job.failed", "job.completed")]
    state = moves[-1]["type"].removeprefix("job.") if moves else "created"
    attempt = max([0, *(h["attempt"] for h in applied)])
    figures = [
        h["data"]["progress"]
        for h in applied
        if h["attempt"] == attempt and "progress" in h["data"]
    ]
    about = told[-1]["data"] if told else {}
    error = failures[-1]["data"] if failures else {}
    output = moves[-1]["data"] if state in ("completed", "failed") else {}
    return {
        "state": state,
        "attempt": attempt,
        "created_at": (told or history)[0]["at"],
        "started_at": starts[0] if starts else None,
        "ended_at": moves[-1]["at"] if state in ENDED else None,
        "updated_at": applied[-1]["at"],
        "owner": about.get("owner"),
        "job_type": about.get("jobType"),
        "bulk_id": about.get("bulkId"),
        "viewers": tuple(sorted({*about.get("viewers", [])})),
        "source": (told or history)[-1 if told else 0]["source"],
        "writers": tuple(sorted({*about.get("writers", [])})),
        "tags": tags(history),
        "progress": figures[-1] if figures else None,
        "error": json.dumps(error["error"]).encode() if "error" in error else None,
        "output": json.dumps(output["output"]).encode() if "output" in output else None,
    }


def tags(history: list[Body]) -> dict[str, str]:
    """Answer a job's tags: later values win, the first 32 names stay."""
    pairs: list[tuple[str, str]] = []
    for h in history:
        new = list(h["data"].get("tags", {}).items())
        if h["verdict"] == "applied":
            pairs = pairs + new
        elif h["tells"]:
            pairs = new + pairs
        names = list(dict.fromkeys(name for name, _ in pairs))[:32]
        pairs = [(name, dict(pairs)[name]) for name in names]
    return dict(pairs)


def is_same(known: Body, event: Body) -> bool:
    """Answer whether an event counts as one that was delivered before."""
    bound = known.get("jobtrailsources")
    if known["apart"] and bound != event.get("jobtrailsources"):
        return False  # one who has no part in a job uses up no id
    return bool(known["id"] == event["id"])


def has_no_part(event: Body, now: Body) -> bool:
    """Answer whether the sender of an event may not touch a job."""
    if "jobtrailsources" not in event:
        return False
    senders = [name.replace("%20", " ") for name in event["jobtrailsources"].split(" ")]
    may = [now["source"]]
    if event["type"] != "job.created":
        may += now["writers"]
    return not any(name in may for name in senders)


def judged(history: list[Body], event: Body, clock: int) -> Body:
    """Return an event as the model remembers it, with its verdict."""
    now: Body = facts(history) if history else {"state": "unknown", "attempt": 0, "owner": None}
    target = event["type"].removeprefix("job.")
    following = now["state"] == "retry" and target == "active"
    attempt = event["data"].get("attempt", now["attempt"] + following)
    untold = target == "created" and now["owner"] is None
    resumed = now["state"] == "cancelled" and attempt > now["attempt"]
    moves = MOVES.get(now["state"], "").split()
    apart = bool(history) and has_no_part(event, now)
    if not history:
        verdict = "applied"
    elif any(is_same(h, event) for h in history):
        verdict = "duplicate"
    elif apart:
        verdict = "foreign"
    elif attempt < now["attempt"] or (untold and not resumed):
        verdict = "late"
    elif target == "progress":
        verdict = "not-allowed" if now["state"] in ENDED else "applied"
    elif target in moves or (f"{target}+" in moves and attempt > now["attempt"]):
        verdict = "applied"
    else:
        verdict = "not-allowed"
    tells = target == "created" and (verdict == "applied" or (verdict == "late" and untold))
    at = (
        round(datetime.fromisoformat(event["time"]).timestamp() * 1e6) if "time" in event else clock
    )
    more = {"attempt": attempt, "at": at, "tells": tells, "apart": apart}
    return {**event, "verdict": verdict, **more}


# --- what is generated

names = st.sampled_from(["alice", "bob", "é", "b-17"])
some_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
sources = st.sampled_from(["//s", "//t", "//with space", "//é"])
bindings = st.lists(sources, min_size=1, max_size=2).map(
    lambda found: " ".join(name.replace(" ", "%20") for name in found)
)
payloads = st.sampled_from([None, 1e300, -0.0, "é\n", [1, [{"a": None}]], {}, {"a": {"b": ""}}])
few_tags = st.dictionaries(st.sampled_from("abcd"), st.text("xyz", max_size=2), max_size=3)
many_tags = st.integers(0, 40).map(lambda n: {f"t{i}": str(n) for i in range(n, n + 20)})
tagged = few_tags | many_tags
zones = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
days = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=zones)
times = days.map(datetime.isoformat)
attempts = st.integers(0, 3)
DATA: dict[str, tuple[dict[str, st.SearchStrategy[Any]], dict[str, st.SearchStrategy[Any]]]] = {
    "job.created": (
        {"jobType": names, "owner": names},
        {
            "bulkId": names,
            "viewers": st.lists(names.map("user:{}".format), max_size=3),
            "writers": st.lists(sources, max_size=3),
        },
    ),
    "job.active": ({}, {"worker": names}),
    "job.progress": ({}, {"progress": st.sampled_from([0, 0.5, 1]), "message": names}),
    "job.retry": ({}, {"error": payloads, "retryAt": times}),
    "job.completed": ({}, {"output": payloads}),
    "job.failed": ({}, {"error": payloads, "output": payloads}),
    "job.cancelled": ({}, {"reason": names}),
    "job.expired": ({}, {"reason": names}),
}


def bodies_of(kind: str) -> st.SearchStrategy[Body]:
    """Return events of one type, without an id."""
    fixed, more = DATA[kind]
    data = st.fixed_dictionaries(fixed, optional={**more, "attempt": attempts, "tags": tagged})
    envelope = {"specversion": st.just("1.0"), "source": sources, "type": st.just(kind)}
    fields = {**envelope, "subject": st.just("job"), "data": data}
    return st.fixed_dictionaries(fields, optional={"time": times, "jobtrailsources": bindings})


bodies = st.sampled_from(sorted(DATA)).flatmap(bodies_of)
series = st.lists(bodies, min_size=1, max_size=12).map(
    lambda found: [{**body, "id": f"e{n}"} for n, body in enumerate(found)]
)


def wire(event: Body) -> bytes:
    return json.dumps(event).encode()


def folded(events: list[Body], job: Job | None = None) -> Job:
    for event in events:
        job, _ = fold(job, decode(wire(event)), Place(0, 0, 0))
    assert job is not None
    return job


def without_trail(job: Job) -> Body:
    return {**msgspec.structs.asdict(job), "trail": b"", "earlier": None}


# --- (a), (b): the machine


class JobsInALog(RuleBasedStateMachine):
    """Deliver events of a handful of jobs to the fold and to the model."""

    jobs = st.sampled_from(["a", "b", "c", "d"])

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0
        self.folded: dict[str, Job] = {}
        self.counts: Counter[str] = Counter()
        self.histories: dict[str, list[Body]] = {}

    def deliver(self, event: Body) -> None:
        name, history = event["subject"], self.histories.setdefault(event["subject"], [])
        remembered = judged(history, event, clock := self.offset * 1_000_003)
        old = self.folded.get(name)
        new, verdict = fold(old, decode(wire(event)), Place(3, self.offset, clock))
        if old is None or old.state is not new.state:
            self.counts[new.state.value] += 1
            self.counts[old.state.value if old else "unknown"] -= 1
        self.folded[name], self.offset = new, self.offset + 1
        history.append(remembered)
        known = facts(history)
        found = {key: getattr(new, key) for key in known}
        assert (verdict.value, found) == (remembered["verdict"], known)
        seen = (remembered["verdict"], remembered["at"], known["state"], self.offset - 1)
        last = read_trail(kept_trail(new))[-1]
        assert (last.verdict.value, last.time, last.state.value, last.offset) == seen

    @rule(name=jobs, body=bodies)
    def a_new_event(self, name: str, body: Body) -> None:
        self.deliver({**body, "subject": name, "id": f"n{self.offset}"})

    @precondition(lambda self: self.histories)
    @rule(data=st.data())
    def an_event_again(self, data: st.DataObject) -> None:
        history = self.histories[data.draw(st.sampled_from(sorted(self.histories)))]
        again = data.draw(st.sampled_from(history))
        known = {"specversion", "id", "source", "type", "subject", "time", "data"}
        known |= {"jobtrailsources"}
        self.deliver({key: value for key, value in again.items() if key in known})

    @precondition(lambda self: self.histories)
    @rule(data=st.data(), body=bodies)
    def another_event_under_a_known_id(self, data: st.DataObject, body: Body) -> None:
        name = data.draw(st.sampled_from(sorted(self.histories)))
        again = data.draw(st.sampled_from(self.histories[name]))
        self.deliver({**body, "subject": name, "id": again["id"]})

    @invariant()
    def the_sum_over_states_is_the_number_of_jobs(self) -> None:
        assert sum(self.counts[state] for state in STATES) == len(self.folded)
        assert +self.counts == Counter(job.state.value for job in self.folded.values())


TestJobsInALog = JobsInALog.TestCase

# --- (c), (d): redelivery, totality


@given(events=series, data=st.data())
def test_redelivering_any_prefix_any_number_of_times_changes_only_the_trail(
    events: list[Body], data: st.DataObject
) -> None:
    job: Job | None = None
    for count, event in enumerate(events, 1):
        job = folded([event], job)
        prefix = events[: data.draw(st.integers(0, count))] * data.draw(st.integers(0, 2))
        again = folded(prefix, job)
        assert without_trail(again) == without_trail(job)
        fresh = [
            entry.verdict.value for entry in read_trail(kept_trail(again)[len(kept_trail(job)) :])
        ]
        assert fresh == ["duplicate"] * len(prefix)
        job = again
    assert job is not None
    assert without_trail(job) == without_trail(folded(events))


letters = st.characters(exclude_categories=("Cs", "Cc"))
wide_names = st.text(letters, min_size=1, max_size=8) | st.text(letters, min_size=256, max_size=256)
wide_times = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=zones)


@st.composite
def wide_events(draw: st.DrawFn) -> Body:
    """Draw valid events from the whole width of what the contract allows."""
    body = draw(bodies)
    body |= {"id": draw(wide_names), "source": draw(wide_names), "subject": draw(wide_names)}
    if draw(st.booleans()):
        body["time"] = draw(wide_times).isoformat()
    if draw(st.booleans()):
        body["data"]["attempt"] = draw(st.sampled_from([0, 2**31 - 1]) | st.integers(0, 2**31 - 1))
    if draw(st.booleans()):
        wide = st.dictionaries(wide_names, st.text(letters, max_size=256), max_size=32)
        body["data"]["tags"] = draw(wide)
    for key in ("output", "error"):
        if key in body["data"]:
            body["data"][key] = draw(some_json)
    return body


@given(st.just([]) | series, wide_events(), st.integers(-(2**63), 2**63 - 1))
def test_fold_is_total(events: list[Body], event: Body, clock: int) -> None:
    before = folded(events) if events else None
    after, verdict = fold(before, decode(wire(event)), Place(1023, 2**62, clock))
    assert len(read_trail(kept_trail(after))) == len(events) + 1
    assert from_microseconds(after.updated_at)
    assert verdict in VERDICTS


# --- (e), (f): the wire


@given(wide_events())
def test_what_is_encoded_decodes_to_the_same_event(event: Body) -> None:
    decoded = decode(wire(event))
    assert decode(encode(decoded)) == decoded
    if decoded.time is not None:
        assert from_microseconds(microseconds(decoded.time)) == decoded.time
    sent = json.loads(encode(decoded))
    for key in ("specversion", "id", "source", "subject", "type"):
        assert sent[key] == event[key]
    if "output" in event["data"]:
        assert sent["data"]["output"] == event["data"]["output"]


def decodes_or_says_why(value: bytes) -> None:
    try:
        event = decode(value)
    except EventError as error:
        event, reason = None, error.reason
    if event is None:
        assert reason in {"no-value", "too-large", "not-utf-8", "not-json", "invalid"}
    else:
        json.loads(encode(event))
        fold(None, event, Place(0, 0, 0))


@given(st.binary(max_size=64))
@example(b"")
@example(b"[" * 150_000)
@example(b"{" * 200_000)
@example(b'{"type":"job.created\xff"}')
def test_arbitrary_bytes_decode_or_raise_an_event_error(value: bytes) -> None:
    decodes_or_says_why(value)


@given(some_json | st.fixed_dictionaries({"type": st.sampled_from(sorted(DATA)) | some_json}))
def test_arbitrary_json_decodes_or_raises_an_event_error(value: Any) -> None:
    decodes_or_says_why(json.dumps(value).encode())


@given(wide_events(), st.data())
def test_a_changed_field_decodes_or_raises_an_event_error(event: Body, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from([event, event["data"]]))
    key = data.draw(st.sampled_from(["data", *place]) | st.text(max_size=3))
    if data.draw(st.booleans()):
        place.pop(key, None)
    else:
        place[key] = data.draw(some_json)
    decodes_or_says_why(wire(event))


@given(bodies, st.data())
def test_changed_bytes_decode_or_raise_an_event_error(event: Body, data: st.DataObject) -> None:
    value = json.dumps({**event, "id": "é"}, ensure_ascii=False).encode()
    begin = data.draw(st.integers(0, len(value)))
    end = min(len(value), begin + data.draw(st.integers(0, 3)))
    decodes_or_says_why(value[:begin] + data.draw(st.binary(max_size=3)) + value[end:])
