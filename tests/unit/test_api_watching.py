"""A watch and its waits: each counts the job as it is, and looks no more often than it must."""

from __future__ import annotations

from typing import NoReturn

from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.states import ENDED
from projections.ports.read import Caller, Watermark
from services.api.live.buffer import Buffer, Record
from services.api.store import Store
from services.api.waits.watching import Seen, Wait, Watch
from tests.contract.store_streams import BASE, event

PARTITIONS = 1
CALLERS = (
    Caller("alice"),
    Caller("bob"),
    Caller("carol", ("team",)),
    Caller("root", reads_all=True),
)
KINDS = ("created", "active", "progress", "retry", "completed", "failed", "cancelled")


class Counting(Wait):
    """Counts its looks."""

    looks = 0

    def update(self, watch: Watch, arrived: float | None = None) -> None:
        self.looks += 1
        super().update(watch, arrived)


def not_there() -> NoReturn:
    raise AssertionError("the projections are not asked")


def watch_of(job_id: str) -> Watch:
    watch = Watch(job_id, Store(not_there), PARTITIONS, lambda _watch: None)
    watch.read_from = None
    return watch


def record(offset: int, value: bytes) -> Record:
    return (0, offset, BASE + offset, value)


def waits_for(watch: Watch) -> list[Counting]:
    # For another job too, so that none of them is over.
    other = watch_of("other")
    return [Counting(one, (watch, other), Buffer(1 << 20), until_any=False) for one in CALLERS]


def expected(watch: Watch, caller: Caller) -> Seen:
    if watch.job is None or not caller.sees(watch.job):
        return Seen.UNKNOWN
    return Seen.ENDED if watch.job.state in ENDED else Seen.PENDING


drawn_events = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 3),
        st.sampled_from(["alice", "bob"]),
        st.lists(st.sampled_from(["user:bob", "group:team"]), unique=True),
    ),
    max_size=12,
)


@given(events=drawn_events)
def test_every_wait_counts_the_job_as_it_is(
    events: list[tuple[str, int, str, list[str]]],
) -> None:
    watch = watch_of("j")
    waits = waits_for(watch)
    for offset, (kind, attempt, owner, viewers) in enumerate(events):
        data = {"owner": owner, "viewers": viewers} if kind == "created" else {"attempt": attempt}
        value = event(kind, "j", f"e{offset}", BASE + offset, **data)
        watch.take(record(offset, value), 0.0)
        for wait in waits:
            assert watch.waits[wait] is expected(watch, wait.caller)
            seen = [one.waits[wait] for one in wait.watches]
            assert wait.unknown == seen.count(Seen.UNKNOWN)
            assert wait.pending == seen.count(Seen.PENDING)


def test_what_changes_nothing_for_a_wait_is_not_looked_at() -> None:
    watch = watch_of("j")
    waits = waits_for(watch)
    values = [
        event("created", "j", "created", BASE),
        event("active", "j", "active", BASE + 1),
        *(event("progress", "j", f"p{n}", BASE + 2 + n, progress=n / 100) for n in range(100)),
        event("completed", "j", "completed", BASE + 200),
    ]
    for offset, value in enumerate(values):
        watch.take(record(offset, value), 0.0)
    assert watch.job is not None
    assert watch.job.progress == 0.99
    assert watch.next_offset == len(values)
    # It came, and it ended.
    assert [wait.looks for wait in waits] == [2] * len(waits)


def test_a_log_that_is_another_one_is_looked_at() -> None:
    watch = watch_of("j")
    (wait, *_) = waits_for(watch)
    watch.take(record(0, event("created", "j", "created", BASE)), 0.0)
    assert watch.waits[wait] is Seen.PENDING
    watch.begin()
    assert watch.waits[wait] is Seen.UNKNOWN
    assert watch.read_from == Watermark({}, {}, frozenset())
