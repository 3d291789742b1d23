"""Projectors join, leave, stop and die while they catch up at full speed: nothing is lost.

Far behind, what is folded waits for tens of thousands of records to be written with them, in both
parts of the store: that is what a rebalance takes away from under a projector.

`REBALANCE_ROUNDS=20` makes a long run of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.faults.backlog import Backlog
from tests.faults.flows import equals_fold, losses, said, until
from tests.faults.groups import give_up, joined, members, settled
from tests.processes import Process, projector

#: In each, every one of three projectors leaves, is stopped, or dies.
ROUNDS: Final = int(os.environ.get("REBALANCE_ROUNDS", "1"))
NAMES: Final = tuple(f"projector-{number}" for number in range(3))
pytestmark = pytest.mark.timeout(240 + 60 * ROUNDS)


class Group:
    """Three projectors that catch up."""

    def __init__(self, settings: Settings, workers: dict[str, Process], log: Backlog) -> None:
        self._settings = settings
        self._workers = workers
        self._log = log
        self._members: set[str] = set()

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """Stop the members meanwhile, and until the log is far ahead; they go on at full speed."""
        for name in self._members:
            self._workers[name].signal(signal.SIGSTOP)
        yield
        await self._log.is_far_ahead()
        applied = self._log.applied
        for name in self._members:
            self._workers[name].signal(signal.SIGCONT)
        if self._members:
            await until(lambda: self._log.applied > applied, "they are at it again")

    async def settles(self) -> None:
        """Wait until Kafka has given the partitions to the members, and each gets on."""
        await settled(self._settings, *self._members)
        await self._log.gets_on()

    async def begins(self, name: str) -> None:
        """Start the first one."""
        await self._workers[name].start()
        self._members.add(name)
        await self.settles()

    async def joins(self, *names: str) -> None:
        """Start projectors, which find the others at full speed."""
        before = await members(self._settings)
        async with self.held_up():
            for name in names:
                await self._workers[name].spawn()
            await joined(self._settings, names, before)
        await asyncio.gather(*(self._workers[name].next_ready() for name in names))
        self._members.update(names)
        await self.settles()

    async def comes_back(self, name: str) -> None:
        """Kill one; when it is started anew it is given its partitions back at once."""
        await self._workers[name].kill()
        self._members.remove(name)
        await self.joins(name)

    async def leaves(self, name: str) -> None:
        """Ask one to end; the others take over."""
        async with self.held_up():
            pass
        assert await self._workers[name].stop() == 0
        self._members.remove(name)
        await self.settles()

    async def dies(self, name: str) -> None:
        """Kill one; the others take over."""
        async with self.held_up():
            pass
        await self._workers[name].kill()
        await self._is_given_up(name)
        await self.settles()

    async def is_late(self, name: str) -> None:
        """Stop one until the others have its partitions; it goes on with what it had in hand."""
        async with self.held_up():
            pass
        self._workers[name].signal(signal.SIGSTOP)
        await self._is_given_up(name)
        self._workers[name].signal(signal.SIGCONT)
        self._members.add(name)
        await self.settles()

    async def _is_given_up(self, name: str) -> None:
        self._members.remove(name)
        await give_up(self._settings, name)
        await settled(self._settings, *self._members)


async def test_a_rebalance_at_full_speed_loses_nothing(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log(shards=2)
    workers = {name: projector(settings, number) for number, name in enumerate(NAMES)}
    running += workers.values()
    async with Backlog(settings, 7) as log:
        group = Group(settings, workers, log)
        await group.begins(NAMES[0])
        await group.joins(*NAMES[1:])
        for number in range(ROUNDS):
            one, two, three = (NAMES[(number + place) % 3] for place in range(3))
            await group.comes_back(one)
            await group.leaves(three)
            await group.is_late(one)
            await group.dies(two)
            await group.joins(two, three)
    await equals_fold(settings)
    assert losses(settings) == []
    assert said(settings, "action=projector_stalled", "action=projector_failed") == []
    assert {worker.child.returncode for worker in workers.values()} == {None}
