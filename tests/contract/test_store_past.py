"""Any store knows the past: at any instant, at any position, for any caller, as the pure fold."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobtrail.core.asof import Cut
from jobtrail.core.errors import FencedError
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import State
from projections.ports.read import Caller, Filters, Snapshot
from tests.contract.past_model import found_at, model_at
from tests.contract.store_feeding import batch_of, fill
from tests.contract.store_model import Model, plain
from tests.contract.store_streams import (
    BASE,
    DAY,
    GROUPS,
    OWNERS,
    PARTITIONS,
    TYPES,
    Log,
    event,
    seeded_log,
)
from tests.contract.stores import IMPLEMENTATIONS, Kit

HOUR: Final = DAY // 24
ADMIN: Final = Caller("root", reads_all=True)


def check(
    snapshot: Snapshot, log: Log, model: Model, caller: Caller, filters: Filters, cut: Cut
) -> None:
    """Hold summary and search at a cut against the model of that cut."""
    ranged = Filters(filters.job_types, (), filters.created_from, filters.created_to)
    assert snapshot.summary_at(caller, ranged, cut) == model.summary(caller, ranged)
    expected = plain(model.listing(caller, filters))
    for size in (1000, 3):
        assert plain(found_at(snapshot, log, caller, filters, cut, size)) == expected


# --- any log


KINDS: Final = ("created", "active", "progress", "retry", "completed", "cancelled", "failed")
STEPS: Final = st.tuples(
    st.sampled_from(("a", "b", "c", "d")),
    st.sampled_from((*KINDS, "created", "created", "cancelled", "again")),
    # Hours around midnights: times go back and forth, and many are the same.
    st.sampled_from((0, 1, 2, 23, 24, 25, 47, 48, 71)),
    st.fixed_dictionaries(
        {},
        optional={
            "attempt": st.integers(0, 2),
            "tags": st.sampled_from(({"k": "1"}, {"k": "2"}, {"l": "1"})),
        },
    ),
    st.fixed_dictionaries(
        {"owner": st.sampled_from(("alice", "bob")), "jobType": st.sampled_from(("x", "y"))},
        optional={
            "viewers": st.sampled_from((["user:bob"], ["group:g"])),
            "bulkId": st.sampled_from(("b1", "b2")),
        },
    ),
)
CALLERS: Final = st.sampled_from((ADMIN, Caller("alice"), Caller("bob"), Caller("eve", ("g",))))
HOURS: Final = st.none() | st.integers(-1, 73).map(lambda hour: BASE + hour * HOUR)
FILTERS: Final = st.builds(
    Filters,
    job_types=st.sampled_from(((), ("x",), ("x", "y"), ("none",))),
    states=st.sampled_from(((), (State.ACTIVE,), (State.CANCELLED, State.CREATED))),
    created_from=HOURS,
    created_to=HOURS,
    owner=st.sampled_from((None, None, "alice")),
    bulk_id=st.sampled_from((None, None, "b1")),
    tags=st.sampled_from(((), (), (("k", "1"),))),
    updated_since=HOURS,
)


def log_of(steps: list[Any]) -> Log:
    log = Log()
    sent: list[tuple[bytes, bytes]] = []
    for number, (job, kind, hour, common, about) in enumerate(steps):
        if kind == "again":
            if sent:
                log.add(*random.Random(number).choice(sent))
            continue
        data = common | (about if kind == "created" else {})
        value = event(kind, job, f"e{number}", BASE + hour * HOUR, **data)
        sent.append((value, job.encode()))
        log.add(value, job.encode())
    return log


@pytest.mark.parametrize("name", ["memory", "sqlite-2", "postgres"])
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_the_past_of_any_log_is_its_fold(name: str, data: st.DataObject) -> None:
    log = log_of(data.draw(st.lists(STEPS, min_size=1, max_size=30)))
    size = data.draw(st.integers(1, 12))
    with tempfile.TemporaryDirectory() as folder:
        store = IMPLEMENTATIONS[name](Path(folder) / "store")
        store.create()
        writer = store.writer()
        for partition, records in log.records.items():
            for start in range(0, len(records), size):
                writer.apply([batch_of(writer, partition, records[start : start + size])])
        ends = log.ends()
        with store.reader().snapshot() as snapshot:
            for _ in range(4):
                cut = data.draw(
                    st.builds(Cut, st.integers(-1, 73).map(lambda hour: BASE + hour * HOUR))
                    | st.builds(
                        lambda some: Cut(None, some),
                        st.fixed_dictionaries({p: st.integers(0, ends[p]) for p in ends}),
                    )
                )
                model = model_at(log, cut)
                for caller in (ADMIN, data.draw(CALLERS)):
                    check(snapshot, log, model, caller, Filters(), cut)
                    check(snapshot, log, model, caller, data.draw(FILTERS), cut)
        store.close()


# --- logs of mixed lives, larger


def cuts(log: Log, rng: random.Random) -> list[Cut]:
    """Return instants, some at which much happens, and positions."""
    instants = [BASE - 1, BASE, BASE + DAY, BASE + 2 * DAY - 1, BASE + DAY // 4, BASE + 9 * DAY]
    instants += [BASE + rng.randrange(5 * DAY) for _ in range(2)]
    ends = log.ends()
    positions = [{p: rng.randint(log.first, end) for p, end in ends.items()} for _ in range(3)]
    return [
        *(Cut(instant) for instant in instants),
        *(Cut(None, position) for position in (*positions, ends, {3: ends[3] // 2})),
    ]


def some_filters(rng: random.Random) -> Filters:
    first, last = sorted(BASE + rng.randrange(5 * DAY) for _ in range(2))
    return Filters(
        job_types=tuple(rng.sample(TYPES, rng.choice((0, 2)))),
        states=tuple(rng.sample(sorted(State), rng.choice((0, 3)))),
        created_from=rng.choice((None, first, first // DAY * DAY)),
        created_to=rng.choice((None, last)),
        owner=rng.choice((None, None, rng.choice(OWNERS))),
        bulk_id=rng.choice((None, None, "b-1")),
        tags=rng.choice(((), (), (("tenant", "acme"),))),
        updated_since=rng.choice((None, first)),
    )


@pytest.mark.parametrize("seed", [71, 72])
async def test_the_past_of_mixed_lives_is_their_fold(store: Kit, seed: int) -> None:
    log, rng = seeded_log(seed, jobs=120, events=900, steady=1), random.Random(seed)
    await fill(store, log, most=rng.choice((5, 400)))
    with store.reader().snapshot() as snapshot:
        for cut in cuts(log, rng):
            model = model_at(log, cut)
            callers = [
                ADMIN,
                Caller(rng.choice(OWNERS)),
                Caller(rng.choice(OWNERS), tuple(rng.sample(GROUPS, 3))),
            ]
            for caller in callers:
                check(snapshot, log, model, caller, Filters(), cut)
                check(snapshot, log, model, caller, some_filters(rng), cut)


@pytest.mark.parametrize("name", ["sqlite-2", "postgres"])
async def test_many_jobs_at_once_whose_times_go_back(name: str, tmp_path: Path) -> None:
    """So many that their changes are derived in columns, over several transactions."""
    store = IMPLEMENTATIONS[name](tmp_path / "store")
    store.create()
    log, rng = seeded_log(75, jobs=3_000, events=9_000, steady=0), random.Random(75)
    await fill(store, log, most=900, again=0.0)
    with store.reader().snapshot() as snapshot:
        for cut in cuts(log, rng):
            model = model_at(log, cut)
            for caller in (ADMIN, Caller("alice", ("admins",))):
                for filters in (Filters(), some_filters(rng)._replace(tags=())):
                    ranged = filters._replace(states=(), owner=None, bulk_id=None)
                    ranged = ranged._replace(updated_since=None)
                    found = snapshot.summary_at(caller, ranged, cut)
                    assert found == model.summary(caller, ranged), (caller, ranged, cut)
    store.close()


# --- what one look is bound to


@pytest.mark.parametrize("name", ["sqlite-2", "postgres"])
async def test_a_rare_job_is_found_by_several_looks(name: str, tmp_path: Path) -> None:
    store = IMPLEMENTATIONS[name](tmp_path / "store")
    store.create()
    log = Log()
    for number in range(10_400):
        log.tell("created", f"job-{number}", BASE + number)
    log.tell("active", "job-3", BASE + DAY)
    log.tell("completed", "job-3", BASE + 2 * DAY)
    await fill(store, log, most=100_000)
    cut, active = Cut(BASE + DAY), Filters(states=(State.ACTIVE,))
    with store.reader().snapshot() as snapshot:
        looked = snapshot.search_at(ADMIN, active, cut, size=5)
        assert (looked.found, looked.skipped) == ([], 0)
        assert looked.reached is not None
        assert [job.id for job in found_at(snapshot, log, ADMIN, active, cut, 5)] == ["job-3"]
        passed = snapshot.search_at(ADMIN, Filters(), cut, size=5, skip=10_200)
        assert (len(passed.found), passed.skipped) == (0, 10_000)
        rest = snapshot.search_at(ADMIN, Filters(), cut, size=5, after=passed.reached, skip=200)
        assert [then.place.id for then in rest.found] == [f"job-{199 - n}" for n in range(5)]
    store.close()


async def test_a_page_ends_where_too_many_events_would_have_to_be_read(store: Kit) -> None:
    log = Log()
    for number in range(30):
        log.tell("created", f"job-{number}", BASE + number)
        for _ in range(100 if number else 2_500):
            log.tell("progress", f"job-{number}", BASE + HOUR, progress=0.5)
        log.tell("completed", f"job-{number}", BASE + DAY)
    await fill(store, log, most=100_000)
    cut = Cut(BASE + 2 * HOUR)
    with store.reader().snapshot() as snapshot:
        looked = snapshot.search_at(ADMIN, Filters(), cut, size=30)
        assert 0 < sum(len(then.events) for then in looked.found) <= 2_000
        assert looked.reached == looked.found[-1].place
        check(snapshot, log, model_at(log, cut), ADMIN, Filters(), cut)


# --- nothing is lost or doubled


async def test_the_past_survives_a_reset_and_a_refill(store: Kit) -> None:
    log = seeded_log(74, jobs=60, events=400, steady=0)
    await fill(store, log)
    writer = store.writer()
    parts = {writer.part_of(partition): partition for partition in range(PARTITIONS)}
    for partition in parts.values():
        writer.reset(partition, *[dict.fromkeys(range(PARTITIONS), 0)] * 2)
    with store.reader().snapshot() as snapshot:
        assert snapshot.summary_at(ADMIN, Filters(), Cut(BASE + 9 * DAY)) == {}
    await fill(store, log)
    with store.reader().snapshot() as snapshot:
        for cut in cuts(log, random.Random(74)):
            check(snapshot, log, model_at(log, cut), ADMIN, Filters(), cut)


def test_what_is_fenced_leaves_no_change(store: Kit) -> None:
    log = Log()
    for number in range(40):
        log.tell("created", "mover", BASE + number, owner=f"o{number % 3}")
        log.tell("cancelled", "mover", BASE + number)
    partition = partition_of("mover", PARTITIONS)
    writer, other = store.writer(), store.writer()
    for start in range(0, len(log), 3):
        records = log.slice(partition, start, start + 3)
        stale = batch_of(other, partition, records)
        writer.apply([batch_of(writer, partition, records)])
        before = store.rows()
        with pytest.raises(FencedError):
            other.apply([stale])
        assert store.rows() == before
    with store.reader().snapshot() as snapshot:
        for number in range(0, 40, 3):
            cut = Cut(BASE + number)
            model = model_at(log, cut)
            for caller in (ADMIN, *(Caller(f"o{owner}") for owner in range(3))):
                check(snapshot, log, model, caller, Filters(), cut)
        for end in range(len(log) + 1):
            cut = Cut(None, {partition: end})
            check(snapshot, log, model_at(log, cut), Caller("o1"), Filters(), cut)
