"""What the tail takes in of what was fetched, and what it says of what it has not taken in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition

from jobtrail.log.consumers import BREAKS, Group
from jobtrail.log.questions import Read
from services.api.limits.limits import Timeouts
from services.api.live.absence import LogLiveness
from services.api.live.buffer import Buffer
from services.api.live.log_verifier import LogVerifier
from services.api.live.tail import Tail
from tests.contract.api_service import Record
from tests.groups import MemoryLog, group_of

FIRST, OTHER = TopicPartition("log", 0), TopicPartition("log", 1)


def records(begin: int, end: int, name: str) -> list[Any]:
    """Return records of a log, which is told by its name."""
    return [Record(name.encode(), b"%d" % offset, offset, 0) for offset in range(begin, end)]


class Fetched:
    """A consumer that has fetched some groups."""

    def __init__(self, groups: Mapping[TopicPartition, Sequence[Group]], log: MemoryLog) -> None:
        self._groups = groups
        self._log = log
        self.sought: dict[TopicPartition, int] = {}

    async def getmany(self, **_options: object) -> Mapping[TopicPartition, Sequence[Group]]:
        return self._groups

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        ends = await self._log.ends()
        return {tp: ends[tp.partition] for tp in tps}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought[tp] = offset

    def last_poll_timestamp(self, _tp: TopicPartition) -> None:
        return None


class Knowing(LogVerifier):
    """Knows the log by itself."""

    def __init__(self, buffer: Buffer, log: MemoryLog) -> None:
        super().__init__("log", {}, buffer, Timeouts())
        self._there: Any = log

    async def log(self) -> Any:
        return self._there

    async def changed(self, read: Mapping[int, Read]) -> dict[int, str]:
        found: dict[int, str] = await self._there.differences(read)
        return found


@pytest.mark.parametrize("when", ["before all of them", "with the first of them"])
async def test_what_was_fetched_of_a_log_before_it_was_replaced_is_not_taken_in(when: str) -> None:
    log = MemoryLog({0: records(0, 20, "old"), 1: records(0, 5, "same")})
    buffer = Buffer(1 << 20)
    tail = Tail("log", {}, buffer, {}, LogLiveness(Timeouts()), Knowing(buffer, log), Timeouts())
    for partition, end in ((0, 10), (1, 5)):
        tail.begin(partition, end)
        tail.take(partition, [log.records[partition][end - 1]], end)
    if when == "with the first of them":
        # All was proven a moment ago, so it is found when a group is of another connection.
        tail._have_proven(BREAKS.count)
    tail._epochs = {0: -1, 1: -1}
    breaks = BREAKS.count + 1
    old = [group_of(log.records[0][10:15], breaks=breaks), group_of(log.records[0][15:])]
    log.records[0] = records(0, 3, "new")
    log.records[1] += records(5, 7, "same")
    consumer = Fetched({FIRST: old, OTHER: [group_of(log.records[1][5:])]}, log)
    await tail._take_some(consumer)
    assert buffer.position == {0: 3, 1: 7}
    assert b"old" not in buffer.by_key
    assert consumer.sought == {FIRST: 3}
