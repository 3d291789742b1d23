"""Jobs with very many events: what they cost is bounded, and answers stay what they are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobtrail.core.partitions import partition_of
from jobtrail.core.trail import CHUNK_ENTRIES
from tests.contract.api_service import PARTITIONS, PATIENT, Answer, Api, running, wait_for

#: More than lie in a row, and more than a request folds.
LONG = 3 * CHUNK_ENTRIES + 7
MANY = 1_500
FOLDED = 200
WAITED = "jobtrail_folds_waited"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, timeouts=PATIENT, max_events_folded=FOLDED, listed=True) as api:
        api.make_store()
        api.follow()
        yield api


def tell(api: Api, job: str, count: int) -> None:
    for number in range(count):
        api.emit(job, "progress", progress=number / count)


async def states(api: Api, *ids: str, user: str = "alice") -> dict[str, str]:
    answer = await api.statuses(*ids, headers=api.bearer(user))
    assert answer.status == 200, answer.body
    return {job_id: status["state"] for job_id, status in answer.json.items()}


async def test_more_events_than_a_request_folds_are_folded_once_for_all_who_ask(api: Api) -> None:
    api.emit("hot", "created")
    await api.project()
    tell(api, "hot", MANY)
    api.emit("hot", "completed")
    api.show()
    assert await states(api, "hot") == {"hot": "completed"}
    assert await api.metric(WAITED) == 1
    # Nothing is left to wait for.
    assert await states(api, "hot") == {"hot": "completed"}
    assert (await api.get("/jobs/hot")).json["progress"] == (MANY - 1) / MANY
    assert await api.metric(WAITED) == 1
    tell(api, "hot", 5)
    api.show()
    assert await states(api, "hot") == {"hot": "completed"}
    assert await api.metric(WAITED) == 1


async def test_many_events_of_many_jobs_are_folded_before_the_answer(api: Api) -> None:
    ids = [f"j-{number}" for number in range(60)]
    for job_id in ids:
        api.emit(job_id, "created")
        tell(api, job_id, 9)
        api.emit(job_id, "failed")
    api.show()
    assert await states(api, *ids) == dict.fromkeys(ids, "failed")


async def test_nothing_is_folded_for_one_who_does_not_see_the_job(api: Api) -> None:
    api.emit("hot", "created")
    await api.project()
    tell(api, "hot", MANY)
    tell(api, "nobodys", MANY)
    api.show()
    assert await states(api, "hot", "nobodys", user="mallory") == {}
    assert (await api.get("/jobs/hot", api.bearer("mallory"))).status == 404
    assert await api.metric(WAITED) == 0


@pytest.mark.parametrize("escaped", [False, True])
async def test_one_who_is_named_among_very_many_events_sees_the_job(
    api: Api, escaped: bool
) -> None:
    tell(api, "hot", MANY)
    api.show()
    assert await states(api, "hot", user="bob") == {}
    api.emit("hot", "created", viewers=["user:bob"])
    if escaped:
        records = api.records[partition_of("hot", PARTITIONS)]
        value = records[-1].value.replace(b"job.created", b"job.cr\\u0065ated")
        records[-1] = records[-1]._replace(value=value)
    tell(api, "hot", MANY)
    api.show()
    assert await states(api, "hot", user="bob") == {"hot": "created"}
    # Taken from bob, but not before its end.
    api.emit("hot", "cancelled")
    api.emit("hot", "created", owner="carol")
    api.show()
    assert await states(api, "hot", user="bob") == {}
    assert await states(api, "hot", user="carol") == {"hot": "created"}


async def test_an_event_from_the_beginning_of_a_long_trail_is_known_by_the_tail(api: Api) -> None:
    partition = partition_of("hot", PARTITIONS)
    tell(api, "hot", LONG)
    api.emit("hot", "created")
    await api.project()
    again = json.loads(api.records[partition][0].value)
    ended = json.dumps({**again, "type": "job.completed"}).encode()
    api.write(b"hot", ended, partition)
    api.show()
    assert await states(api, "hot") == {"hot": "created"}
    await api.project()
    assert await states(api, "hot") == {"hot": "created"}
    api.emit("hot", "failed")
    api.write(b"hot", ended, partition)
    api.show()
    assert await states(api, "hot") == {"hot": "failed"}


async def test_a_wait_knows_the_beginning_of_a_long_trail(api: Api) -> None:
    partition = partition_of("hot", PARTITIONS)
    api.emit("hot", "created")
    tell(api, "hot", LONG)
    await api.project()
    again = json.loads(api.records[partition][3].value)
    waiting = await wait_for(api, "hot")
    for _turn in range(3):
        api.write(b"hot", json.dumps({**again, "type": "job.completed"}).encode(), partition)
        tell(api, "hot", CHUNK_ENTRIES)
        api.show()
        # The projections go on over the very events that the wait has seen.
        await api.project()
        assert not waiting.done()
    api.emit("hot", "failed")
    api.show()
    assert (await waiting).json["hot"]["state"] == "failed"


async def test_a_wait_for_a_job_with_more_events_than_are_folded_ends(api: Api) -> None:
    api.emit("hot", "created")
    await api.project()
    tell(api, "hot", MANY)
    api.show()
    waiting = await wait_for(api, "hot")
    api.emit("hot", "completed")
    api.show()
    await api.project()
    assert (await waiting).json["hot"]["state"] == "completed"


@pytest.mark.parametrize("beyond", [0, 5, CHUNK_ENTRIES + 5])
async def test_a_history_is_read_page_by_page_wherever_its_entries_lie(
    api: Api, beyond: int
) -> None:
    api.emit("hot", "created")
    tell(api, "hot", LONG)
    await api.project()
    tell(api, "hot", beyond)
    api.show()
    count = len(api.records[partition_of("hot", PARTITIONS)])
    for size in (1, 50, CHUNK_ENTRIES, 100):
        found, path = [], f"/jobs/hot/history?size={size}"
        while path:
            answer: Answer = await api.get(path, api.bearer("alice"))
            found += [event["offset"] for event in answer.json["events"]]
            path = answer.json["next"]
        assert found == list(range(count))


async def test_a_long_job_is_told_as_it_was(api: Api) -> None:
    api.emit("hot", "created")
    tell(api, "hot", LONG)
    await api.project()
    tell(api, "hot", 20)
    api.emit("hot", "completed")
    api.show()
    partition = partition_of("hot", PARTITIONS)
    for offset, state in ((50, "created"), (LONG + 10, "created"), (LONG + 22, "completed")):
        answer = await api.get(f"/jobs/hot?asOf={partition}:{offset}", api.bearer("alice"))
        assert answer.json["state"] == state
        assert (
            await api.get(f"/jobs/hot?asOf={partition}:{offset}", api.bearer("bob"))
        ).status == 404
