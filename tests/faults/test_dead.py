"""`jobtrail dead`: letters are found, written back without a loop, and taken off the list."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from jobtrail.core.partitions import partition_of
from jobtrail.log.dead_letters import DONE, LETTER, RETRIES, LetterFilter, parse_letter
from jobtrail.log.dead_topic import DeadTopic
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS, event
from tests.e2e.test_emit import outcome, prepared
from tests.faults.flows import applied, equals_fold, reached, read_topic, until, write
from tests.processes import Process, projector

JOB = "job-1"
HOME = partition_of(JOB, PARTITIONS)
GOOD = event("active", JOB, "astray")


class Sent(NamedTuple):
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


async def dead(settings: Settings, *arguments: str) -> tuple[int, Any, str]:
    """Run `jobtrail dead`; return its status, what it printed, and what it said beside."""
    process = prepared(settings.data_dir, child_environment(settings), "dead", *arguments)
    await process.spawn()
    found = await outcome(process)
    return (
        found.status,
        json.loads(found.out) if found.out.startswith(("[", "{")) else found.out,
        found.err,
    )


async def open_places(settings: Settings) -> list[str]:
    async with DeadTopic(settings) as topic:
        return [letter.place for letter in await topic.letters()]


@pytest.fixture
async def folding(make_log: MakeLog, running: list[Process]) -> Settings:
    """A log with two letters: an event in a wrong partition, and one that is no event."""
    settings = await make_log()
    process = projector(settings)
    running.append(process)
    await process.start()
    wrong = (HOME + 1) % PARTITIONS
    headers = (("by", b"\xff\x00"), ("jobtrail-reason", b"theirs"), ("none", None))
    await write(settings, [
        Sent(wrong, JOB.encode(), GOOD, headers), Sent(HOME, JOB.encode(), b"no event"),
    ])  # fmt: skip
    await until(lambda: applied(settings) == 2, "both are letters")
    return settings


async def test_letters_are_listed_by_filters_and_shown_with_their_bytes(folding: Settings) -> None:
    wrong = f"{folding.topic}/{(HOME + 1) % PARTITIONS}/0"
    status, rows, _ = await dead(folding, "list")
    assert status == 0
    assert {row["reason"] for row in rows} == {"wrong-partition", "not-json"}
    for arguments, count in (
        (("--reason", "not-json"), 1),
        (("--partition", str(HOME)), 1),
        (("--job", JOB), 2),
        (("--job", "another"), 0),
        (("--since", "1h"), 2),
        (("--until", "2020-01-01"), 0),
        (("--limit", "1"), 1),
    ):
        assert len((await dead(folding, "list", *arguments))[1]) == count, arguments
    status, letter, _ = await dead(folding, "show", wrong)
    assert (status, letter["key"], letter["value"]) == (0, JOB, GOOD.decode())
    assert letter["headers"] == [["by", "\\xff\x00"], ["jobtrail-reason", "theirs"], ["none", None]]
    assert (await dead(folding, "show", f"{folding.topic}/0/9999"))[0] == 1
    assert (await dead(folding, "show", "nonsense"))[0] == 2
    assert (await dead(folding, "list", "--since", "yesterday"))[0] == 2


async def test_a_letter_is_written_back_to_where_it_belongs_once(folding: Settings) -> None:
    wrong = f"{folding.topic}/{(HOME + 1) % PARTITIONS}/0"
    assert (await dead(folding, "retry"))[0] == 2
    status, said, _ = await dead(folding, "retry", wrong, "--dry-run", "--json")
    assert (status, said["dryRun"], said["letters"][0]["outcome"]) == (0, True, "retried")
    assert len(await open_places(folding)) == 2
    status, said, _ = await dead(folding, "retry", wrong, "--json")
    assert (status, said["letters"][0]["note"]) == (0, f"{HOME}:1")
    record = (await read_topic(folding, folding.topic))[HOME][1]
    assert (record.key, record.value) == (JOB.encode(), GOOD)
    assert record.headers == (
        ("by", b"\xff\x00"), ("jobtrail-reason", b"theirs"), ("none", None), (RETRIES, b"1"),
    )  # fmt: skip
    await reached(folding, {HOME: 2})
    log = await equals_fold(folding)
    assert len(log) == 3
    assert wrong not in await open_places(folding)
    assert len((await dead(folding, "list", "--all"))[1]) == 2
    status, said, _ = await dead(folding, "retry", wrong, "--json")
    assert (status, said["letters"][0]["outcome"]) == (1, "left")
    marks = [
        record for record in (await read_topic(folding, folding.dead_topic))[0]
        if record.headers[-1][0] == DONE
    ]  # fmt: skip
    assert [dict(mark.headers)[LETTER] for mark in marks] == [wrong.encode()]
    assert parse_letter(marks[0], 0) is None


async def test_a_letter_that_comes_again_is_not_written_back_for_ever(folding: Settings) -> None:
    bad = f"{folding.topic}/{HOME}/0"
    status, said, _ = await dead(folding, "retry", "--reason", "not-json", "--json")
    assert (status, said["letters"][0]["outcome"]) == (1, "left")
    status, said, _ = await dead(folding, "retry", bad, "--again", "--json")
    assert (status, said["letters"][0]["outcome"]) == (0, "retried")
    await until(lambda: applied(folding) == 3, "it is a letter again")
    again = f"{folding.topic}/{HOME}/1"
    async with DeadTopic(folding) as topic:
        (letter,) = await topic.letters(LetterFilter(reasons=frozenset(["not-json"])))
    assert (letter.place, letter.retries) == (again, 1)
    status, said, _ = await dead(folding, "retry", "--everything", "--json")
    assert status == 1
    assert {row["place"]: row["outcome"] for row in said["letters"]}[again] == "left"
    assert [again] == await open_places(folding)
    status, said, _ = await dead(folding, "retry", again, "--again", "--json")
    await until(lambda: applied(folding) == 5, "it is a letter again")
    async with DeadTopic(folding) as topic:
        (letter,) = await topic.letters()
    assert letter.retries == 2


async def test_letters_are_dropped_and_kept(folding: Settings) -> None:
    assert (await dead(folding, "drop", "--everything", "--dry-run"))[0] == 0
    assert len(await open_places(folding)) == 2
    status, said, _ = await dead(folding, "drop", "--everything", "--json")
    assert (status, {row["outcome"] for row in said["letters"]}) == (0, {"dropped"})
    assert await open_places(folding) == []
    rows = (await dead(folding, "list", "--all"))[1]
    assert [row["done"] for row in rows] == ["dropped"] * 2
    status, said, _ = await dead(folding, "drop", f"{folding.topic}/0/77", "--json")
    assert (status, said["missing"]) == (1, [f"{folding.topic}/0/77"])


async def test_a_letter_that_came_twice_is_one(folding: Settings) -> None:
    letters = (await read_topic(folding, folding.dead_topic))[0]
    doubled = [Sent(0, letter.key, letter.value, letter.headers) for letter in letters]
    await write(folding.model_copy(update={"topic": folding.dead_topic}), doubled)
    assert len(await open_places(folding)) == 2
    assert (await dead(folding, "drop", "--everything"))[0] == 0
    assert await open_places(folding) == []
