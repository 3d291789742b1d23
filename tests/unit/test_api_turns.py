"""What callers share is shared out by turns, and what they hold is bounded."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from services.api.http.outgoing import LARGE, Outgoing
from services.api.limits.turns import FairQueue, Turns
from services.api.problems.problems import Problem


class Full(Exception):
    """There is no room."""

    def __init__(self, own: bool) -> None:
        super().__init__(own)
        self.own = own


def line(total: int = 1_000, per_caller: int = 1_000) -> FairQueue:
    return FairQueue(total, per_caller, Full)


async def use(line: FairQueue, user: str, cost: float, order: list[str]) -> None:
    await line.enter(user)
    try:
        order.append(user)
        await asyncio.sleep(0)
    finally:
        line.leave(user, cost)


# --- one after the other


async def test_a_caller_stands_behind_one_request_of_another_not_behind_all() -> None:
    shared, order = line(), list[str]()
    tasks = [asyncio.create_task(use(shared, "greedy", 1.0, order)) for _ in range(100)]
    await asyncio.sleep(0)
    await use(shared, "alice", 1.0, order)
    assert order == ["greedy", "alice"]
    await asyncio.gather(*tasks)
    assert len(shared) == 0


async def test_who_asks_for_much_has_fewer_turns() -> None:
    shared, order = line(), list[str]()
    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(use(shared, "dear", 3.0, order))
            group.create_task(use(shared, "cheap", 1.0, order))
    first = Counter(order[:40])
    assert 28 <= first["cheap"] <= 32


async def test_nobody_gains_by_having_been_away() -> None:
    shared, order = line(), list[str]()
    tasks = [asyncio.create_task(use(shared, "busy", 1.0, order)) for _ in range(20)]
    while len(order) < 10:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(use(shared, "new", 1.0, order)) for _ in range(20)]
    await asyncio.gather(*tasks)
    assert Counter(order[12:26]) == {"new": 7, "busy": 7}


async def test_places_are_bounded_for_each_and_for_all() -> None:
    shared = line(total=3, per_caller=2)
    order: list[str] = []
    tasks = [asyncio.create_task(use(shared, user, 1.0, order)) for user in ("a", "a", "b")]
    await asyncio.sleep(0)
    for user, own in (("a", True), ("c", False)):
        with pytest.raises(Full) as refused:
            await shared.enter(user)
        assert refused.value.own is own
    # What has begun is not refused.
    tasks.append(asyncio.create_task(shared.enter("a", begun=True)))
    await asyncio.gather(*tasks)
    assert len(shared) == 1
    shared.leave("a", 0.0)
    assert len(shared) == 0


@pytest.mark.parametrize("seed", range(20))
async def test_who_goes_away_holds_up_nobody(seed: int) -> None:
    chance = random.Random(seed)
    shared, order = line(), list[str]()
    tasks = [
        asyncio.create_task(use(shared, chance.choice("abc"), chance.random(), order))
        for _ in range(50)
    ]
    for _ in range(30):
        await asyncio.sleep(0)
        chance.choice(tasks).cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(shared) == 0
    await use(shared, "later", 1.0, order)
    assert order[-1] == "later"


# --- the event loop


async def served(turns: Turns, user: str, order: list[str]) -> None:
    turn = turns.enter(user)
    if turn is not None:
        await turn
    order.append(user)


async def test_who_is_alone_waits_for_nothing() -> None:
    turns = Turns()
    turns.enter("")
    assert [turns.enter("") for _ in range(100)] == [None] * 100


async def test_a_request_is_served_between_those_of_another() -> None:
    turns, order = Turns(), list[str]()
    tasks = [asyncio.create_task(served(turns, "alice", order))]
    tasks += [asyncio.create_task(served(turns, "greedy", order)) for _ in range(50)]
    await asyncio.sleep(0)
    assert len(order) < 5
    before = len(order)
    await served(turns, "alice", order)
    assert order[-1] == "alice"
    assert len(order) <= before + 2
    await asyncio.gather(*tasks)
    assert Counter(order) == {"greedy": 50, "alice": 2}
    assert turns.waiting == 0


async def test_a_long_request_pauses_and_goes_on() -> None:
    turns = Turns()
    async with asyncio.timeout(30):
        for _ in range(100):
            await turns.pause("alice")
    assert turns.waiting == 0


# --- bytes under way


async def test_bytes_are_bounded_for_each_and_for_all() -> None:
    outgoing = Outgoing(5 * LARGE, 3 * LARGE)
    outgoing.take("a", 2 * LARGE)
    with pytest.raises(Problem) as refused:
        outgoing.take("a", 2 * LARGE)
    assert refused.value.status == 429
    outgoing.take("a", LARGE)
    with pytest.raises(Problem) as refused:
        outgoing.check("a")
    assert refused.value.status == 429
    outgoing.check("b")
    with pytest.raises(Problem) as refused:
        outgoing.take("b", 3 * LARGE)
    assert refused.value.status == 503
    outgoing.free("a", 2 * LARGE)
    outgoing.take("b", 3 * LARGE)
    assert outgoing.size == 4 * LARGE
    assert outgoing.refused == {"caller": 2, "process": 1}


async def test_one_answer_goes_out_however_large() -> None:
    outgoing = Outgoing(LARGE, LARGE)
    outgoing.take("a", 10 * LARGE)
    outgoing.free("a", 10 * LARGE)
    assert outgoing.size == 0


async def test_an_answer_that_has_begun_waits_for_room() -> None:
    outgoing = Outgoing(10 * LARGE, 2 * LARGE)
    outgoing.take("a", 2 * LARGE)
    entered = asyncio.Event()

    async def send() -> None:
        async with outgoing.room("a", LARGE):
            entered.set()

    task = asyncio.create_task(send())
    await asyncio.sleep(0)
    assert not entered.is_set()
    async with outgoing.room("b", LARGE):
        pass
    await asyncio.sleep(0)
    assert not entered.is_set()
    outgoing.free("a", 2 * LARGE)
    await task
    assert outgoing.size == 0
