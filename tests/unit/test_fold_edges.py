"""The fold where a small fault would go unseen: large attempts, chance, and the first of a kind."""

from __future__ import annotations

import pytest

from jobtrail.core.fold import fold
from jobtrail.core.job import Place, event_key
from jobtrail.core.states import State
from jobtrail.core.trail import Verdict
from tests.unit.test_fold import after, an, in_state, without_trail

APPLIED, DUPLICATE = Verdict.APPLIED, Verdict.DUPLICATE
LATE, NOT_ALLOWED = Verdict.LATE, Verdict.NOT_ALLOWED
#: Attempts are compared as numbers, however large they are.
LARGE = 2**31 - 2


def test_a_key_that_stands_in_a_trail_by_chance_makes_no_duplicate() -> None:
    wanted = next(
        name
        for name in map(str, range(100))
        if int.from_bytes(event_key(name), "little", signed=True) > 0
    )
    offset = int.from_bytes(event_key(wanted), "little")
    job, _ = fold(None, an("job.created", 1), Place(3, offset, 0))
    assert event_key(wanted) in job.trail
    once = fold(job, an("job.active", 2, named=wanted), Place(3, offset + 1, 0))
    assert once[1] is APPLIED
    assert fold(once[0], an("job.retry", 3, named=wanted), Place(3, offset + 2, 0))[1] is DUPLICATE


def test_a_job_created_under_an_id_that_was_seen_fills_in_nothing() -> None:
    seen, _ = after(an("job.active", 5, named="x"))
    job, verdicts = after(an("job.created", 6, named="x", tags={"a": "b"}), start=seen)
    assert verdicts == [DUPLICATE]
    assert without_trail(job) == without_trail(seen)


def test_only_job_created_fills_in_a_job_without_owner() -> None:
    seen, _ = after(an("job.active", 5, attempt=2))
    job, verdicts = after(an("job.progress", 6, attempt=1, tags={"a": "b"}), start=seen)
    assert verdicts == [LATE]
    assert without_trail(job) == without_trail(seen)


@pytest.mark.parametrize("attempt", [LARGE - 1, LARGE])
def test_a_job_created_after_the_fact_is_late_at_a_large_attempt_too(attempt: int) -> None:
    cancelled = an("job.cancelled", 5, attempt=LARGE)
    job, verdicts = after(cancelled, an("job.created", 6, attempt=attempt))
    assert (verdicts, job.state, job.owner) == ([APPLIED, LATE], State.CANCELLED, "alice")
    resumed, verdicts = after(cancelled, an("job.created", 6, attempt=LARGE + 1))
    assert (verdicts, resumed.state) == ([APPLIED, APPLIED], State.CREATED)


def test_large_attempts_are_compared_as_numbers() -> None:
    start = in_state("active", attempt=LARGE)
    halfway, _ = after(an("job.progress", 3, attempt=LARGE, progress=0.5), start=start)
    again, verdicts = after(an("job.active", 4, attempt=LARGE), start=halfway)
    assert (verdicts, again.progress) == ([NOT_ALLOWED], 0.5)
    same, verdicts = after(an("job.retry", 4, attempt=LARGE), start=halfway)
    assert (verdicts, same.progress) == ([APPLIED], 0.5)
    higher, verdicts = after(an("job.active", 4, attempt=LARGE + 1), start=halfway)
    assert (verdicts, higher.progress, higher.attempt) == ([APPLIED], None, LARGE + 1)


def test_a_first_event_of_an_attempt_has_what_it_says_of_that_attempt() -> None:
    job, _ = after(an("job.progress", 1, attempt=4, progress=0.5, tags={"a": "b"}))
    assert (job.attempt, job.progress, job.tags) == (4, 0.5, {"a": "b"})


@pytest.mark.parametrize("viewers", [[], ["user:a"], ["user:a", "user:a"], ["user:b", "group:a"]])
def test_viewers_are_sorted_and_each_is_named_once(viewers: list[str]) -> None:
    job, _ = after(an("job.created", 1, viewers=viewers))
    assert job.viewers == tuple(sorted(set(viewers)))


def test_a_first_event_with_32_tags_keeps_them_all_and_takes_no_more() -> None:
    full = {f"t{n}": "1" for n in range(32)}
    job, _ = after(an("job.created", 1, tags=full))
    assert job.tags == full
    assert after(an("job.active", 2, tags={"x": "1"}), start=job)[0].tags == full
    assert after(an("job.active", 2, tags={"t31": "2"}), start=job)[0].tags == {**full, "t31": "2"}


def test_error_stays_where_a_job_is_cancelled_or_its_time_runs_out() -> None:
    retry, _ = after(an("job.retry", 3, error="e"), start=in_state("active"))
    for kind in ("job.cancelled", "job.expired", "job.active", "job.progress"):
        assert after(an(kind, 4), start=retry)[0].error == b'"e"'
    assert after(an("job.retry", 4), start=in_state("active"))[0].error is None
