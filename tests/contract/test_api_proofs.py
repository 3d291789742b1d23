"""Positions that nothing at hand proves are looked up in the log, at their senders' expense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from jobtrail.core.position import format_position
from jobtrail.log.consumers import BREAKS
from services.api.limits.limits import Timeouts
from services.api.live.buffer import Buffer
from services.api.live.witness import Witness
from services.api.problems.problems import LOG_CHANGED, LOG_UNAVAILABLE, TOO_MANY_READS, Problem
from services.api.reads.freshness import POSITION
from tests.contract.api_service import PATIENT, Answer, Api, Record, running
from tests.groups import MemoryLog
from tests.waiting import until

#: More than one caller may have waiting.
MANY = 150


class AskedLog(MemoryLog):
    """A log that tells what it was asked, and may keep those waiting who ask."""

    def __init__(self, records: dict[int, list[Any]]) -> None:
        super().__init__(records)
        self.asked: list[dict[int, int]] = []
        self.closed = 0
        self.answers = asyncio.Event()
        self.answers.set()
        #: What it lets out once, in the place of an answer.
        self.error: BaseException | None = None

    async def find(self, offsets: Any) -> dict[int, Any]:
        self.asked.append(dict(offsets))
        await asyncio.sleep(0)
        await self.answers.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return await super().find(offsets)

    async def close(self) -> None:
        self.closed += 1


class Place:
    """A service, its log, and positions in that."""

    def __init__(self) -> None:
        self.logs: list[AskedLog] = []
        self.api: Api

    def make_log(self, records: dict[int, list[Any]]) -> AskedLog:
        self.logs.append(AskedLog(records))
        return self.logs[-1]

    @property
    def log(self) -> AskedLog:
        return self.logs[0]

    async def ask(self, user: str, offset: int, mark: int = 0) -> Answer:
        """Ask with a position that claims a mark of the record at an offset of partition 0."""
        position = format_position({0: offset + 1}, {0: mark})
        return await self.api.get("/jobs/search", {**self.api.bearer(user), POSITION: position})

    async def ask_known(self, user: str, offset: int) -> Answer:
        """Ask with a true position that nothing at hand proves."""
        position = self.api.position_at({0: offset + 1})
        return await self.api.get("/jobs/search", {**self.api.bearer(user), POSITION: position})


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place()
    async with running(tmp_path, timeouts=PATIENT, log=place.make_log) as api:
        place.api = api
        api.make_store()
        for number in range(300):
            api.records[0].append(Record(b"j", b"%d" % number, number, 0))
        await api.project()
        # The tail begins here, so it knows no mark but the last one.
        api.follow()
        yield place


def changed(answer: Answer) -> bool:
    return (answer.status, answer.json["type"]) == (410, LOG_CHANGED.type)


async def test_a_true_position_is_looked_up_once(place: Place) -> None:
    for _ in range(3):
        assert (await place.ask_known("alice", 7)).status == 200
    assert place.log.asked == [{0: 7}]


async def test_a_position_that_is_refused_is_remembered_too(place: Place) -> None:
    answers = await asyncio.gather(*(place.ask("mallory", 7) for _ in range(MANY)))
    assert all(map(changed, answers))
    assert place.log.asked == [{0: 7}]
    # What lies there is known by now: another mark costs no look, and the true one is proven.
    assert changed(await place.ask("mallory", 7, 5))
    assert (await place.ask_known("alice", 7)).status == 200
    assert place.log.asked == [{0: 7}]


async def test_where_no_record_lies_is_remembered_too(place: Place) -> None:
    del place.api.records[0][7]
    for _ in range(2):
        assert changed(await place.ask("mallory", 7))
    assert place.log.asked == [{0: 7}]


async def test_nobody_can_tell_of_what_is_deleted_or_compacted(place: Place) -> None:
    place.log.began[0] = 10
    assert (await place.ask("alice", 7)).status == 200
    assert place.log.asked == [{}]
    del place.api.records[0][20]
    place.log.compacted = True
    assert (await place.ask("alice", 20)).status == 200


async def test_one_caller_has_so_many_looks_waiting_and_others_their_turns(place: Place) -> None:
    place.log.answers.clear()
    theirs = [asyncio.create_task(place.ask("mallory", offset)) for offset in range(MANY)]
    async with asyncio.timeout(30):
        await until(lambda: sum(task.done() for task in theirs) >= MANY - 64)
    refused = [task.result() for task in theirs if task.done()]
    assert {answer.json["type"] for answer in refused} == {TOO_MANY_READS.type}
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    before = len(place.log.asked)
    hers = asyncio.create_task(place.ask_known("alice", 200))
    async with asyncio.timeout(30):
        await until(lambda: len(place.api.service.proofs) >= 65)
    place.log.answers.set()
    assert (await hers).status == 200
    # The one that was being answered, and perhaps the next, were before hers.
    assert place.log.asked.index({0: 200}) <= before + 1
    left = await asyncio.gather(*theirs)
    assert sum(map(changed, left)) == 64


async def test_callers_who_ask_the_same_get_the_same_answer(place: Place) -> None:
    place.log.answers.clear()
    asking = [
        asyncio.create_task(place.ask_known(f"user-{number}", 7 + number % 2))
        for number in range(40)
    ]
    async with asyncio.timeout(30):
        await until(lambda: len(place.api.service.proofs) >= 40)
    place.log.answers.set()
    assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
    assert sorted(asked[0] for asked in place.log.asked) == [7, 8]


@pytest.mark.parametrize("error", [KafkaError(), TimeoutError(), asyncio.CancelledError()])
async def test_a_log_that_fails_is_asked_over_a_new_connection(
    place: Place, error: BaseException
) -> None:
    place.log.error = error
    answer = await place.ask_known("alice", 7)
    assert (answer.status, answer.json["type"]) == (503, LOG_UNAVAILABLE.type)
    assert place.log.closed == 1
    assert (await place.ask_known("alice", 7)).status == 200


async def test_what_was_found_in_another_log_is_forgotten(place: Place) -> None:
    assert changed(await place.ask("mallory", 7))
    # The witness counts those that it has met.
    place.api.witness.others += 1
    place.api.records[0][7] = Record(b"other", b"", 7, 0)
    assert (await place.ask_known("alice", 7)).status == 200
    assert place.log.asked == [{0: 7}, {0: 7}]


async def test_every_way_that_takes_a_position_looks_it_up_in_turn(place: Place) -> None:
    position = place.api.position_at({0: 8})
    alice = place.api.bearer("alice")
    for path in ("/jobs/search", "/jobs/summary"):
        assert (await place.api.get(f"{path}?asOf={position}", alice)).status == 200
    # There is no such job.
    assert (await place.api.get(f"/jobs/j?asOf={position}", alice)).status == 404
    assert place.log.asked == [{0: 7}]


class Asking(Witness):
    """Knows by itself what the log is, and counts how often it looked."""

    def __init__(self, end: int) -> None:
        buffer = Buffer(1 << 20)
        buffer.begin(0, 1, 0)
        super().__init__("log", {}, buffer, Timeouts())
        self._there: Any = MemoryLog({0: [Record(b"j", b"", n, 0) for n in range(end)]})
        self.looks = 0
        #: What is let out once, in the place of an answer.
        self.error: BaseException | None = None

    async def log(self) -> Any:
        self.looks += 1
        await asyncio.sleep(0)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self._there


@pytest.mark.parametrize("end", [1, 0], ids=["the same", "another one"])
async def test_a_log_that_is_in_doubt_is_asked_once_for_all_who_want_to_know(end: int) -> None:
    witness = Asking(end)
    BREAKS.count += 1
    assert not witness.is_sure
    await asyncio.gather(*(witness.be_sure() for _ in range(MANY)))
    assert witness.looks == 1
    # Another one is in doubt until the tail has begun with it.
    assert (witness.is_sure, witness.others) == ((True, 0) if end else (False, 1))


@pytest.mark.parametrize("error", [OSError(), asyncio.CancelledError()])
async def test_who_has_to_know_is_told_where_the_log_does_not_answer(error: BaseException) -> None:
    witness = Asking(1)
    BREAKS.count += 1
    witness.error = error
    with pytest.raises(Problem) as told:
        await witness.be_sure()
    assert told.value.kind is LOG_UNAVAILABLE
    await witness.be_sure()
    assert witness.is_sure


async def test_what_retention_takes_while_it_is_looked_up_is_not_missing(place: Place) -> None:
    place.log.answers.clear()
    asking = asyncio.create_task(place.ask_known("alice", 7))
    async with asyncio.timeout(30):
        await until(lambda: place.log.asked)
    del place.api.records[0][:10]
    place.log.answers.set()
    assert (await asking).status == 200
