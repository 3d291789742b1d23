"""Pages of a search against a sort of every job: by cursor, by offset, through every filter."""

from __future__ import annotations

import random

import pytest

from jobtrail.core.states import STATES, State
from projections.ports.read import Caller, Cursor, Filters, Snapshot
from tests.contract.conftest import Filled
from tests.contract.store_checks import EVERYBODY, listed
from tests.contract.store_feeding import fill
from tests.contract.store_model import Model, plain
from tests.contract.store_streams import BASE, BULKS, DAY, OWNERS, TAGS, TYPES, VALUES, Log
from tests.contract.stores import Kit
from tests.contract.test_store_reading import CALLERS, instants

ALONE = {
    "nothing": Filters(),
    **{f"type {name}": Filters((name,)) for name in (*TYPES, "unknown")},
    "two types": Filters(TYPES[:2]),
    **{f"state {state}": Filters(states=(state,)) for state in STATES},
    "two states": Filters(states=(State.ACTIVE, State.FAILED)),
    "all states": Filters(states=STATES),
    "from": Filters(created_from=BASE + DAY),
    "from an instant": Filters(created_from=BASE + DAY + 1),
    "to": Filters(created_to=BASE + 2 * DAY),
    "to an instant": Filters(created_to=BASE + 2 * DAY - 1),
    "a midnight": Filters(created_from=BASE + DAY, created_to=BASE + DAY),
    "from after to": Filters(created_from=BASE + DAY, created_to=BASE),
    **{f"owner {name}": Filters(owner=name) for name in (*OWNERS, "unknown", "BOB")},
    **{f"bulk {name}": Filters(bulk_id=name) for name in (*BULKS, "unknown")},
    **{f"tag {n}": Filters(tags=((TAGS[n], value),)) for n, value in enumerate(VALUES[:7])},
    "two tags": Filters(tags=(("back\\slash", "ACME"), ('k"ey', "é"))),
    "a tag with two values": Filters(tags=(("tenant", "acme"), ("tenant", "1"))),
    "one tag again and again": Filters(tags=(("tenant", "acme"),) * 9),
    "a tag with two values among others": Filters(
        tags=(*((TAGS[n], "acme") for n in range(4)), ("tenant", "1"))
    ),
    "thousands of tags": Filters(tags=tuple((f"tag-{n}", "") for n in range(3_000))),
    "an unknown tag": Filters(tags=(("unknown", ""),)),
    "updated since": Filters(updated_since=BASE + 3 * DAY),
    "updated since an instant": Filters(updated_since=BASE + 3 * DAY + 1),
}
SOME_CALLERS = (EVERYBODY, *CALLERS[2:4], CALLERS[11], CALLERS[16], *CALLERS[21:25])


def cursor_pages(
    snapshot: Snapshot, caller: Caller, filters: Filters, size: int
) -> list[list[dict[str, object]]]:
    """Return every page up to the empty one, each begun behind the last job of the one before."""
    pages = []
    after: Cursor | None = None
    while page := listed(snapshot, caller, filters, size=size, after=after):
        pages.append(plain(page))
        after = Cursor(page[-1].created_at, page[-1].id)
        assert len(pages) <= 1000, "the cursor does not move on"
    return pages


def cut(jobs: list[dict[str, object]], size: int) -> list[list[dict[str, object]]]:
    """Cut a listing into pages."""
    return [jobs[at : at + size] for at in range(0, len(jobs), size)]


@pytest.mark.parametrize("filters", ALONE.values(), ids=ALONE)
def test_each_filter_alone(filled: Filled, filters: Filters) -> None:
    with filled.reader.snapshot() as snapshot:
        for caller in SOME_CALLERS:
            expected = plain(filled.model.listing(caller, filters))
            assert plain(listed(snapshot, caller, filters, size=1000)) == expected, caller
            assert cursor_pages(snapshot, caller, filters, 20) == cut(expected, 20), caller


def test_the_filters_find_something(filled: Filled) -> None:
    empty = [name for name, f in ALONE.items() if not filled.model.listing(EVERYBODY, f)]
    assert set(empty) == {
        name
        for name in ALONE
        if "unknown" in name
        or name.startswith(("from after to", "owner BOB", "a tag with two values", "thousands"))
    }


@pytest.mark.parametrize("size", [1, 3, 10, 64, 1000])
def test_every_page_by_cursor_and_by_offset(filled: Filled, size: int) -> None:
    with filled.reader.snapshot() as snapshot:
        for caller in (EVERYBODY, Caller("alice"), Caller("é", ("stewards",))):
            jobs = plain(filled.model.listing(caller))
            assert len(jobs) > 10
            assert cursor_pages(snapshot, caller, Filters(), size) == cut(jobs, size)
            for at in range(0, len(jobs) + size, size):
                page = listed(snapshot, caller, Filters(), size=size, offset=at)
                assert plain(page) == jobs[at : at + size]


@pytest.mark.parametrize("seed", range(31, 35))
def test_any_combination_of_filters(filled: Filled, seed: int) -> None:
    rng = random.Random(seed)
    hits = 0
    with filled.reader.snapshot() as snapshot:
        for _ in range(80):
            caller, filters = rng.choice(CALLERS), combined(filled, rng)
            expected = plain(filled.model.listing(caller, filters))
            hits += bool(expected)
            size = rng.choice((1, 2, 5, 50))
            offset = rng.randint(0, len(expected) + 1)
            found = listed(snapshot, caller, filters, size=size, offset=offset)
            assert plain(found) == expected[offset : offset + size], (caller, filters)
            pages = cursor_pages(snapshot, caller, filters, max(size, len(expected) // 4))
            assert [job for page in pages for job in page] == expected, (caller, filters)
    assert hits > 20


def combined(filled: Filled, rng: random.Random) -> Filters:
    """Return a random combination of filters, taken from a job so that it may find one."""
    job = rng.choice(list(filled.model.jobs.values()))
    near = instants(filled, rng)

    def sometimes(chance: float = 0.3) -> bool:
        return rng.random() < chance

    tags = sorted(job.tags.items())
    return Filters(
        job_types=(job.job_type or "scan", rng.choice(TYPES)) if sometimes() else (),
        states=(job.state, *rng.sample(STATES, rng.randint(0, 3))) if sometimes() else (),
        created_from=next(near) if sometimes() else None,
        created_to=next(near) if sometimes() else None,
        owner=job.owner if sometimes() else None,
        bulk_id=job.bulk_id if sometimes() else None,
        tags=tuple(rng.sample(tags, min(len(tags), rng.choice((1, 2, 5, 32)))))
        if sometimes()
        else (),
        updated_since=job.updated_at - rng.randint(-1, 1) if sometimes() else None,
    )


def test_an_offset_counts_from_behind_the_cursor(filled: Filled) -> None:
    rng = random.Random(41)
    with filled.reader.snapshot() as snapshot:
        for caller in SOME_CALLERS[:4]:
            jobs = filled.model.listing(caller)
            for _ in range(20):
                at, offset, size = rng.randrange(len(jobs)), rng.randint(0, 9), rng.randint(1, 9)
                after = Cursor(jobs[at].created_at, jobs[at].id)
                page = listed(snapshot, caller, Filters(), size=size, after=after, offset=offset)
                first = at + 1 + offset
                assert plain(page) == plain(jobs[first : first + size])


def test_a_cursor_need_not_be_a_job(filled: Filled) -> None:
    rng = random.Random(42)
    jobs = filled.model.listing(EVERYBODY)
    with filled.reader.snapshot() as snapshot:
        for _ in range(60):
            near = rng.choice(jobs)
            after = Cursor(near.created_at + rng.randint(-1, 1), near.id + rng.choice(("", "!")))
            page = listed(snapshot, EVERYBODY, Filters(), size=1000, after=after)
            mark = (-after.created_at, after.id)
            assert plain(page) == plain(j for j in jobs if (-j.created_at, j.id) > mark)


async def test_ties_are_in_the_order_of_their_ids_across_partitions(store: Kit) -> None:
    log = Log()
    letters = ("a", "B", "b", "\u00e9", "e\u0301", "\uffff", "\U00010000", "~", "-", "'", "z")
    names = [f"{x}{y}" for x in letters for y in letters]
    random.Random(43).shuffle(names)
    for turn, name in enumerate(names):
        # Several owners, so that a caller's listing is merged from several audiences.
        owner = ("alice", "bob", "carol")[turn % 3]
        log.tell("created", name, BASE, owner=owner, viewers=["group:g"], bulkId="b")
    await fill(store, log)
    model = Model(log).advance()
    reader = store.reader()
    with reader.snapshot() as snapshot:
        for caller in (EVERYBODY, Caller("x", ("g",)), Caller("alice"), Caller("bob", ("g",))):
            for filters in (Filters(), Filters(bulk_id="b"), Filters(owner="bob")):
                expected = plain(model.listing(caller, filters))
                for size in (1, 4, 100):
                    pages = cursor_pages(snapshot, caller, filters, size)
                    assert pages == cut(expected, size)


async def test_a_cursor_skips_and_repeats_nothing_while_jobs_arrive(store: Kit) -> None:
    log = Log()
    for number in range(40):
        log.tell("created", f"old-{number}", BASE + number // 4)
    await fill(store, log)
    reader, seen = store.reader(), []
    after: Cursor | None = None
    for number in range(50):
        with reader.snapshot() as snapshot:
            page = listed(snapshot, Caller("alice"), Filters(), size=3, after=after)
        if not page:
            break
        seen += [job.id for job in page]
        after = Cursor(page[-1].created_at, page[-1].id)
        log.tell("created", f"new-{number}", BASE + DAY)
        await fill(store, log)
    assert len(seen) == len(set(seen)) == 40
    assert all(job_id.startswith("old-") for job_id in seen)


async def test_pages_far_behind_the_first_are_the_same_listing(store: Kit) -> None:
    log, rng = Log(), random.Random(44)
    for number in range(9_000):
        owner = OWNERS[number % 3]
        log.tell("created", f"job-{number}", BASE + rng.randrange(90) * DAY // 30, owner=owner)
    await fill(store, log, most=2000, again=0.0)
    model, reader = Model(log).advance(), store.reader()
    with reader.snapshot() as snapshot:
        for caller in (EVERYBODY, Caller(OWNERS[0])):
            jobs = plain(model.listing(caller))
            for offset in (0, 500, 4096, 4097, 8192, len(jobs) - 31, len(jobs)):
                for size in (1, 31, 32, 33, 900):
                    page = listed(snapshot, caller, Filters(), size=size, offset=offset)
                    assert plain(page) == jobs[offset : offset + size], (offset, size)
            assert cursor_pages(snapshot, caller, Filters(), 700) == cut(jobs, 700)
