"""Events of odd content through a running service: one verdict at each door, and what is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
import pytest

from jobtrail import JobProducer
from jobtrail.access.tokens import READ_ALL, WRITE, local_secret, make_token
from jobtrail.client import Client
from jobtrail.client.explain import explain_history
from jobtrail.core.errors import EventError
from jobtrail.core.partitions import partition_of
from jobtrail.core.position import format_position
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.processes import Process, api, projector

JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
#: What no event may have, the member that is to be named, and where that is in the data alone.
UNHELD = {
    b'{"output":{"x":[0,1e400]}}': ("data.output.x[1]", "/output/x/1"),
    b'{"output":%b}' % (b"7" * 4301): ("data.output", "/output"),
    b'{"mine":[-2e308]}': ("data.mine[0]", "/mine/0"),
    rb'{"output":{"a b":"\ud800"}}': ('data.output["a b"]', "/output/a b"),
    rb'{"output":{"\udc00":1}}': ('data.output["\\ufffd"]', "/output/\ufffd"),
    b'{"output":' + b"[" * 300 + b"]" * 300 + b"}": ("data.output[0][0]", "/output/0/0"),
}


class Service(NamedTuple):
    """A running service, and who writes to it."""

    url: str
    settings: Settings
    session: aiohttp.ClientSession

    async def post(self, form: str, body: bytes, **headers: str) -> tuple[int, Any]:
        token = make_token(local_secret(self.settings.data_dir), "alice", (), (WRITE,))
        about = {"Authorization": f"Bearer {token}", "Content-Type": form, **headers}
        async with self.session.post(f"{self.url}/events", data=body, headers=about) as answer:
            return answer.status, await answer.json(content_type=None)

    def client(self) -> Client:
        token = make_token(local_secret(self.settings.data_dir), "alice", (), (READ_ALL,))
        return Client(self.url, token)


@pytest.fixture
async def service(make_log: MakeLog, running: list[Process]) -> AsyncIterator[Service]:
    settings = await make_log()
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    await folding.start()
    url = await answering.start()
    async with aiohttp.ClientSession() as session:
        yield Service(url, settings, session)


def event(kind: str, number: int, data: bytes, job: str = "odd", **more: str) -> bytes:
    head = f'"id":"{job}-{number}","source":"//s","subject":"{job}","type":"job.{kind}"'
    for name, value in more.items():
        head += f',"{name}":"{value}"'
    return b'{"specversion":"1.0",%b,"data":%b}' % (head.encode(), data)


async def test_every_mode_of_http_names_the_member_that_no_reader_holds(service: Service) -> None:
    head = {"ce-specversion": "1.0", "ce-id": "e", "ce-source": "//s", "ce-subject": "odd"}
    verdicts: list[str] = []
    for data, (where, pointer) in UNHELD.items():
        value = event("completed", 1, data)
        status, said = await service.post(STRUCTURED, value)
        (structured,) = said["errors"]
        assert (status, structured["pointer"].startswith(f"/data{pointer}")) == (400, True)
        assert f"Where: {where}" in structured["detail"]
        status, said = await service.post(JSON, data, **head, **{"ce-type": "job.completed"})
        (binary,) = said["errors"]
        assert (status, binary["pointer"].startswith(pointer)) == (400, True)
        assert binary["detail"] == structured["detail"]
        verdicts.append(structured["detail"])
    good = event("created", 0, b'{"jobType":"t","owner":"alice"}')
    batch = [good, *(event("completed", 1, data) for data in UNHELD)]
    status, said = await service.post(BATCHED, b"[%b]" % b",".join(batch))
    assert status == 207
    assert [verdict["accepted"] for verdict in said["events"]] == [True] + [False] * len(UNHELD)
    assert [verdict["detail"] for verdict in said["events"][1:]] == verdicts
    status, said = await service.post(BATCHED, b"[%b]" % b",".join(batch[1:]))
    assert [error["detail"] for error in said["errors"]] == verdicts


async def test_what_any_client_wrote_to_kafka_is_passed_by_and_read(service: Service) -> None:
    numbers = b"[1.7976931348623157e308,-0.0,1e-400,18446744073709551616]"
    held = b'{"output":{"n":%b,"t":"\\u0000"}}' % numbers
    told = [
        event("created", 0, b'{"jobType":"t","owner":"=alice"}', time="0002-01-01T00:00:00+14:00"),
        event("retry", 1, b'{"retryAt":"9999-12-31T23:59:59-14:00","error":"\\u2028"}'),
        *(event("completed", 10 + number, data) for number, data in enumerate(UNHELD)),
        event("completed", 9, held, time="9998-12-31T23:59:59.999999-14:00"),
    ]
    async with service.client() as client, LogWriter(service.settings) as writer:
        home = partition_of("odd", service.settings.partitions)
        following = client.events(after=f"{home}:0")
        for value in told:
            await writer.append("odd", value)
        await writer.settle()
        client.position = format_position(writer.position)
        job = await client.job("odd")
        assert (job.state, job.output["t"]) == ("completed", "\0")
        assert job.created_at.isoformat() == "0001-12-31T10:00:00+00:00"
        history = [entry async for entry in client.history("odd")]
        assert [entry.type for entry in history] == ["job.created", "job.retry", "job.completed"]
        story = explain_history(history, datetime.now(UTC))
        assert "9999-12-31" in story.events[1].words
        async with asyncio.timeout(30):
            changes = [await anext(following) for _ in range(3)]
        assert [change.offset for change in changes] == [entry.offset for entry in history]
    async with JobProducer("//s", settings=service.settings) as producer:
        with pytest.raises(EventError, match=r"Where: data\.output\.x\[1\]"):
            await producer.completed("odd", output={"x": [0, float("inf")]})
