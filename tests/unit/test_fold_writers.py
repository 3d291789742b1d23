"""Who may touch a job: events whose senders are bound to sources, by example."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobtrail.core.errors import EventError
from jobtrail.core.events import Event, decode
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, event_key, foreign_key
from jobtrail.core.source_binding import MAX_SOURCES, pack_sources, stamp, unpack_sources
from jobtrail.core.trail import Verdict, read_trail

API, WORKER, MALLORY = "//alice/api", "//alice/worker", "//mallory/app"
APPLIED, DUPLICATE, FOREIGN = Verdict.APPLIED, Verdict.DUPLICATE, Verdict.FOREIGN


def an(
    kind: str, source: str, named: str = "", bound: list[str] | None = None, **data: Any
) -> Event:
    """Return an event; `bound` are the sources that its sender is bound to, by default its own."""
    if kind == "created":
        data = {"jobType": "t", "owner": source.split("/")[2]} | data
    body = {"specversion": "1.0", "id": named or f"{kind} of {source}", "source": source}
    body |= {"type": f"job.{kind}", "subject": "job"}
    value = json.dumps(body | ({"data": data} if data else {})).encode()
    bound = [source] if bound is None else bound
    return decode(stamp(value, pack_sources(bound)) if bound else value)


def after(*events: Event, start: Job | None = None) -> tuple[Job, list[Verdict]]:
    job, verdicts = start, []
    for offset, event in enumerate(events):
        job, verdict = fold(job, event, Place(0, offset, offset))
        verdicts.append(verdict)
    assert job is not None
    return job, verdicts


def without_trail(job: Job) -> Job:
    found, _ = after(start=job)
    return Job(**{name: getattr(found, name) for name in Job.__struct_fields__} | {"trail": b""})


HERS = after(an("created", API, writers=[WORKER, WORKER, "//alice/b"]))[0]


def test_a_job_remembers_who_created_it_and_who_may_work_on_it() -> None:
    assert (HERS.source, HERS.writers) == (API, ("//alice/b", WORKER))
    alone, _ = after(an("created", API, writers=[WORKER]))
    assert alone.writers == (WORKER,)


KINDS = ["created", "active", "progress", "retry", "completed", "failed", "cancelled", "expired"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_changes_nothing_and_stays_visible(kind: str) -> None:
    event = an(kind, MALLORY, tags={"x": "y"}, attempt=7)
    job, verdicts = after(event, start=HERS)
    assert verdicts == [FOREIGN]
    assert without_trail(job) == without_trail(HERS)
    last = read_trail(job.trail)[-1]
    assert (last.verdict, last.state) == (FOREIGN, HERS.state)
    assert last.key == foreign_key(MALLORY, event.id)


def test_cancelling_and_creating_anew_takes_no_job_over() -> None:
    done, _ = after(an("completed", API, output=["secret"]), start=HERS)
    job, verdicts = after(
        an("cancelled", MALLORY), an("created", MALLORY, viewers=["user:mallory"]), start=done
    )
    assert (verdicts, job.owner, job.viewers) == ([FOREIGN] * 2, "alice", ())
    over, _ = after(an("cancelled", API), start=HERS)
    job, verdicts = after(an("created", MALLORY), start=over)
    assert (verdicts, job.owner, job.state) == ([FOREIGN], "alice", "cancelled")


def test_its_own_source_and_its_writers_work_on_a_job() -> None:
    job, verdicts = after(an("active", WORKER), an("completed", API), start=HERS)
    assert (verdicts, job.state) == ([APPLIED] * 2, "completed")
    # One key may be for several sources: it has the part that any of them has.
    both = an("active", "//other", bound=["//other", WORKER])
    assert after(both, start=HERS)[1] == [APPLIED]
    both = an("active", "//other", bound=["//other", API])
    assert after(both, start=HERS)[1] == [APPLIED]


def test_a_writer_does_not_say_whose_a_job_is() -> None:
    over, _ = after(an("cancelled", WORKER), start=HERS)
    job, verdicts = after(an("created", WORKER, owner="mallory"), start=over)
    assert (verdicts, job.owner, job.state) == ([FOREIGN], "alice", "cancelled")
    job, verdicts = after(an("created", API, "anew", owner="bob"), start=over)
    assert (verdicts, job.owner, job.writers, job.source) == ([APPLIED], "bob", (), API)


def test_nobody_claims_a_job_that_others_began() -> None:
    begun, verdicts = after(an("completed", API, bound=[], output=1))
    assert (verdicts, begun.owner, begun.source) == ([APPLIED], None, API)
    job, verdicts = after(an("created", MALLORY, writers=[API]), start=begun)
    assert (verdicts, job.owner, job.writers, job.source) == ([FOREIGN], None, (), API)
    job, verdicts = after(an("created", API, writers=[WORKER]), start=begun)
    assert (verdicts, job.owner, job.writers) == ([Verdict.LATE], "alice", (WORKER,))


def test_who_is_bound_to_nothing_may_do_anything_and_hands_a_job_on() -> None:
    over, _ = after(an("cancelled", "//ops", bound=[]), start=HERS)
    job, verdicts = after(an("created", "//bob/app", bound=[]), start=over)
    assert (verdicts, job.owner, job.source) == ([APPLIED], "bob", "//bob/app")
    # Whose it was before has no part in it any more.
    assert after(an("cancelled", API), start=job)[1] == [FOREIGN]
    assert after(an("cancelled", "//bob/app"), start=job)[1] == [APPLIED]
    # A `job.created` that does not count hands on nothing.
    job, verdicts = after(an("created", "//bob/app", bound=[]), start=HERS)
    assert (verdicts, job.source) == ([Verdict.NOT_ALLOWED], API)


def test_a_stranger_uses_up_no_id_of_others() -> None:
    job, verdicts = after(
        an("completed", MALLORY, "next"), an("completed", MALLORY, "next"), start=HERS
    )
    assert verdicts == [FOREIGN, DUPLICATE]
    assert event_key("next") not in {entry.key for entry in read_trail(job.trail)}
    job, verdicts = after(an("completed", API, "next"), start=job)
    assert (verdicts, job.state) == ([APPLIED], "completed")
    # Nor does it matter who has used it up.
    assert after(an("completed", MALLORY, "next 2"), start=job)[1] == [FOREIGN]
    assert after(an("completed", MALLORY, HERS.id), start=job)[1] == [FOREIGN]
    assert after(an("active", MALLORY, "created of " + API), start=HERS)[1] == [DUPLICATE]


def test_what_was_foreign_once_stays_ignored() -> None:
    early = an("active", MALLORY)
    job, verdicts = after(early, an("cancelled", API), start=HERS)
    assert verdicts == [FOREIGN, APPLIED]
    job, _ = after(an("created", API, "anew", writers=[MALLORY]), start=job)
    job, verdicts = after(early, an("active", MALLORY, "another"), start=job)
    assert verdicts == [DUPLICATE, APPLIED]


def test_the_rules_of_the_table_hold_for_those_who_have_a_part() -> None:
    done, _ = after(an("completed", API), start=HERS)
    verdicts = after(an("active", WORKER), an("progress", WORKER, attempt=0), start=done)[1]
    assert verdicts == [Verdict.NOT_ALLOWED] * 2


# --- what is written into an event


@pytest.mark.parametrize(
    "sources", [["//a"], ["//a", "//b"], ["//a b", "//a%20b"], ["é\u00a0ü"], ["%", " ", '"\\']]
)
def test_sources_are_read_as_they_were_packed(sources: list[str]) -> None:
    assert unpack_sources(pack_sources(sources)) == set(sources)


FORGED = [
    b'"jobtrailsources":"//alice/api"',
    b'"jobtrailsources":null',
    b'"jobtrailsource\\u0073":"//alice/api"',
    b'"jobtrailsources":"//x","jobtrailsources":"//alice/api"',
]


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("end", [b"", b" \r\n\t"])
def test_a_stamp_counts_whatever_the_sender_wrote(forged: bytes, end: bytes) -> None:
    value = b'{%b,"specversion":"1.0","id":"e","source":"//m","type":"job.active","subject":"job"}'
    event = decode(stamp(value % forged + end, pack_sources(["//m", "//n o"])))
    assert event.bound_to == "//m //n%20o"


@pytest.mark.parametrize(
    "field",
    [
        b'"jobtrailsources":5',
        b'"jobtrailsources":""',
        b'"jobtrailsources":["//m"]',
        b'"jobtrailsources":"//m\\u0000"',
    ],
)
def test_an_attribute_of_another_form_is_refused(field: bytes) -> None:
    value = b'{"specversion":"1.0","id":"e","source":"//m","type":"job.active","subject":"job",%b}'
    with pytest.raises(EventError, match=r"schema|control character"):
        decode(value % field)


@pytest.mark.parametrize(
    "writers", [["a"] * (MAX_SOURCES + 1), [""], ["a\u0000"], ["a" * 257], "a", [5]]
)
def test_writers_of_another_form_are_refused(writers: Any) -> None:
    with pytest.raises(EventError, match=r"schema|control character"):
        an("created", API, writers=writers)
