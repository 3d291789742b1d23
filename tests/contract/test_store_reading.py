"""Who sees which job by its id, and what a summary counts, against a recount of every job."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from jobtrail.core.job import STATE_CODES
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import STATES, State
from projections.ports.read import Caller, Filters
from tests.contract.conftest import Filled
from tests.contract.store_checks import EVERYBODY, listed
from tests.contract.store_feeding import fill
from tests.contract.store_model import Model, visible
from tests.contract.store_streams import BASE, DAY, DAYS, GROUPS, OWNERS, TYPES, Log
from tests.contract.stores import Kit

CALLERS = (
    EVERYBODY,
    Caller("alice", reads_all=True),
    *(Caller(owner) for owner in OWNERS),
    *(Caller("stranger", (group,)) for group in GROUPS),
    *(Caller(owner, GROUPS[:2]) for owner in OWNERS[:3]),
    Caller("é", GROUPS),
    Caller("bob", ("stewards", "stewards", *(f"g{n}" for n in range(300)))),
    # Names that only look like those of somebody who may see more.
    Caller("stranger"),
    Caller("group:admins"),
    Caller("stranger", ("group:admins", "user:bob")),
    Caller("BOB"),
    Caller("al%"),
    Caller(""),
)


def named(caller: Caller) -> str:
    return f"{caller.user}+{len(caller.groups)}{'+all' * caller.reads_all}"


# --- jobs by their ids


@pytest.mark.parametrize("caller", CALLERS, ids=named)
def test_a_caller_gets_the_jobs_that_he_sees_and_no_other(filled: Filled, caller: Caller) -> None:
    model = filled.model
    ids = [*model.jobs, *(f"{job_id}x" for job_id in model.jobs), "unknown"]
    random.Random(1).shuffle(ids)
    with filled.reader.snapshot() as snapshot:
        found = snapshot.states(caller, ids)
    expected = visible(caller, model.jobs.values())
    assert sorted(found) == sorted((j.id, STATE_CODES[j.state], j.output) for j in expected)
    assert [job for job in model.jobs.values() if caller.sees(job)] == expected


def test_an_id_that_is_asked_for_twice_is_answered_once(filled: Filled) -> None:
    some = next(iter(filled.model.jobs))
    with filled.reader.snapshot() as snapshot:
        asked = [some, "unknown", some]
        assert [job_id for job_id, *_ in snapshot.states(EVERYBODY, asked)] == [some]
        assert list(snapshot.watched([some, some])) == [some]
        assert snapshot.states(EVERYBODY, []) == []
        assert snapshot.watched([]) == {}


def test_audiences_are_those_of_the_jobs_that_are_where_they_are_looked_for(
    filled: Filled,
) -> None:
    jobs, partitions = filled.model.jobs, filled.reader.partitions
    with filled.reader.snapshot() as snapshot:
        places = [(job_id, partition_of(job_id, partitions)) for job_id in [*jobs, "unknown"]]
        found = snapshot.audiences(places)
        assert found == {job.id: (job.owner, job.viewers) for job in jobs.values()}
        elsewhere = [(job_id, (home + 1) % partitions) for job_id, home in places]
        assert snapshot.audiences([*elsewhere, *places, *places]) == found
        assert snapshot.audiences([]) == {}


@pytest.mark.parametrize("tail", ["\x00x", "\n", " ", "'", '"'])
def test_an_id_with_something_behind_it_is_another_id(filled: Filled, tail: str) -> None:
    ids = [f"{job_id}{tail}" for job_id in filled.model.jobs]
    with filled.reader.snapshot() as snapshot:
        assert snapshot.states(EVERYBODY, ids) == []
        assert snapshot.watched(ids) == {}


# --- summaries

_MORNING = BASE + 2 * DAY + DAY // 3
RANGES = {
    "all": (None, None),
    "whole days": (BASE + DAY, BASE + 3 * DAY - 1),
    "one whole day": (BASE, BASE + DAY - 1),
    "a day and an instant": (BASE, BASE + DAY),
    "an instant and a day": (BASE - 1, BASE + DAY - 1),
    "a day but for its first instant": (BASE + 1, BASE + DAY - 1),
    "a day but for its last instant": (BASE, BASE + DAY - 2),
    "edges inside days": (_MORNING - DAY, _MORNING + DAY),
    "edges in neighbouring days": (_MORNING, _MORNING + DAY),
    "both edges in one day": (_MORNING, _MORNING + DAY // 4),
    "one midnight": (BASE + DAY, BASE + DAY),
    "two instants round a midnight": (BASE + DAY - 1, BASE + DAY),
    "from a morning on": (_MORNING, None),
    "up to a morning": (None, _MORNING),
    "from a midnight on": (BASE + DAY, None),
    "up to a midnight": (None, BASE + DAY),
    "up to the last instant of a day": (None, BASE + DAY - 1),
    "before 1970": (None, -1),
    "round 1970": (-DAY - 1, 0),
    "inside the last day before 1970": (-DAY + 1, -1),
    "nothing there": (BASE + 90 * DAY, BASE + 99 * DAY),
    "from after to": (BASE + 2 * DAY, BASE + DAY),
    "from after to in one day": (_MORNING + 1, _MORNING),
    "years": (-60_000_000_000_000_000, 250_000_000_000_000_000),
}


@pytest.mark.parametrize("span", RANGES.values(), ids=RANGES)
def test_a_summary_is_the_recount(filled: Filled, span: tuple[int | None, int | None]) -> None:
    with filled.reader.snapshot() as snapshot:
        for caller in CALLERS:
            for job_types in ((), TYPES[:3]):
                filters = Filters(job_types, created_from=span[0], created_to=span[1])
                found = snapshot.summary(caller, filters)
                assert found == filled.model.summary(caller, filters), (caller, filters)


def test_a_summary_of_any_range_is_the_recount(filled: Filled) -> None:
    rng = random.Random(21)
    with filled.reader.snapshot() as snapshot:
        for _ in range(400):
            filters = Filters(
                job_types=tuple(rng.sample(TYPES, rng.choice((0, 0, 1, 3)))),
                created_from=next(instants(filled, rng)),
                created_to=next(instants(filled, rng)),
            )
            caller = rng.choice(CALLERS)
            found = snapshot.summary(caller, filters)
            assert found == filled.model.summary(caller, filters), (caller, filters)


def instants(filled: Filled, rng: random.Random) -> Iterator[int | None]:
    """Yield bounds of ranges: at and beside the creation of jobs, at and beside midnights."""
    created = [job.created_at for job in filled.model.jobs.values()]
    while True:
        near = rng.choice((rng.choice(created), BASE + rng.randint(-1, DAYS + 1) * DAY))
        yield rng.choice((None, near - 1, near, near, near + 1))


def test_a_summary_of_some_types_names_no_other(filled: Filled) -> None:
    with filled.reader.snapshot() as snapshot:
        for job_types in (("scan",), ("scan", "scan"), ("unknown",), ("unknown", *TYPES), TYPES):
            filters = Filters(job_types)
            found = snapshot.summary(EVERYBODY, filters)
            assert found == filled.model.summary(EVERYBODY, filters)
            assert set(found) == set(job_types) - {"unknown"}


def test_a_summary_names_its_types_in_order_and_all_states(filled: Filled) -> None:
    with filled.reader.snapshot() as snapshot:
        summary = snapshot.summary(EVERYBODY, Filters())
    names = [name for name in summary if name is not None]
    assert names == sorted(TYPES)
    assert None in summary
    assert {len(counts) for counts in summary.values()} == {len(STATES)}


def test_other_filters_mean_nothing_to_a_summary(filled: Filled) -> None:
    others = Filters(
        states=(State.FAILED,), owner="bob", bulk_id="b-1", tags=(("a", "b"),), updated_since=1
    )
    with filled.reader.snapshot() as snapshot:
        for caller in CALLERS[:5]:
            assert snapshot.summary(caller, others) == snapshot.summary(caller, Filters())


async def test_a_job_counts_once_however_many_ways_lead_to_it(store: Kit) -> None:
    log = Log()
    viewers = ["user:alice", "user:bob", *(f"group:g{n}" for n in range(50))]
    log.tell("created", "shared", BASE, owner="alice", viewers=[*viewers, *viewers])
    log.tell("created", "hidden", BASE, owner="carol", viewers=["user:carol"])
    await fill(store, log)
    caller = Caller("alice", tuple(f"g{n}" for n in range(100)))
    reader = store.reader()
    with reader.snapshot() as snapshot:
        assert snapshot.summary(caller, Filters()) == {"scan": [1, 0, 0, 0, 0, 0, 0]}
        assert [job.id for job in listed(snapshot, caller, Filters(), size=9)] == ["shared"]
        assert snapshot.states(caller, ["hidden", "shared"]) == [("shared", 0, None)]


async def test_an_empty_store_answers_nothing(store: Kit) -> None:
    model = Model(Log())
    with store.reader().snapshot() as snapshot:
        assert snapshot.held.position == model.position
        assert snapshot.held.recovering == frozenset()
        for caller in CALLERS[:4]:
            assert snapshot.summary(caller, Filters()) == {}
            assert listed(snapshot, caller, Filters(), size=1) == []
            assert snapshot.states(caller, ["a"]) == []
