"""Records that are no valid event, in every partition: none of them stops the line."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.record.util import calc_crc32c

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.core.events import MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES
from jobtrail.core.partitions import partition_of
from jobtrail.log.consumers import read_any_header_name
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS, event
from tests.faults.flows import DEADLINE, equals_fold, fold_of, losses, reached, read_topic, write
from tests.processes import Process, api, projector

#: Names that come twice, bytes that are no text, and no value at all.
HEADERS: Final = (("by", b"\xff\x00"), ("by", b""), ("none", None), ("jobtrail-reason", b"theirs"))
#: Jobs with a home in each partition, in order.
JOBS: Final = [
    next(job for n in range(10_000) if partition_of(job := f"job-{n}", PARTITIONS) == partition)
    for partition in range(PARTITIONS)
]


class Sent(NamedTuple):
    """A record as it was written, and why it is bad."""

    partition: int
    key: bytes | None
    value: bytes | None
    reason: str | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def changed(job: str, **fields: Any) -> bytes:
    """Return a job's event with other fields in its envelope; None takes a field out."""
    body = {**json.loads(event("active", job, "bad")), **fields}
    return json.dumps({k: v for k, v in body.items() if v is not None}).encode()


def kinds(job: str, stranger: str) -> list[tuple[bytes | None, bytes | None, str]]:
    """Return key, value and reason of a record of each bad kind; a stranger lives elsewhere."""
    key, good, large = job.encode(), event("active", job, "bad"), "x" * MAX_PAYLOAD_BYTES
    return [
        (key, None, "no-value"),
        (key, b"", "no-value"),
        (key, good + b" " * MAX_EVENT_BYTES, "too-large"),
        (key, changed(job, type="job.completed", data={"output": large}), "too-large"),
        (key, good.replace(b"//s", b"\xff\xfe"), "not-utf-8"),
        (key, b"\x00" * 10, "not-json"),
        (key, good[:-1], "not-json"),
        (key, good + good, "not-json"),
        (None, b"[" + good + b"]", "invalid"),
        (b"\xff", b"null", "invalid"),
        (key, b"[" * 100_000, "invalid"),
        (key, changed(job, id=None), "invalid"),
        (key, changed(job, subject=None), "invalid"),
        (key, changed(job, type="job.paused"), "invalid"),
        (key, changed(job, specversion="0.3"), "invalid"),
        (key, changed(job, time="2026-03-01T00:00:00"), "invalid"),
        (key, changed(job, id="a\x00b"), "invalid"),
        (key, changed(job, data={"attempt": -1}), "invalid"),
        (key, changed(job, type="job.created", data={"jobType": "scan"}), "invalid"),
        (None, good, "wrong-key"),
        (stranger.encode(), good, "wrong-key"),
        (stranger.encode(), event("active", stranger, "astray"), "wrong-partition"),
    ]


def mixed() -> list[Sent]:
    """Return every kind of bad record in every partition, with a good one behind each."""
    records = []
    for partition, job in enumerate(JOBS):
        for number, (key, value, reason) in enumerate(kinds(job, JOBS[partition - 1])):
            good = event("progress", job, f"{number}", progress=number / 100)
            records.append(Sent(partition, key, value, reason, HEADERS))
            records.append(Sent(partition, job.encode(), good))
    return records


def place_of(topic: str, record: Any) -> bytes:
    return f"{topic}/{record.partition}/{record.offset}".encode()


async def test_bad_records_end_as_dead_letters_and_the_next_good_ones_are_applied(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    sent = mixed()
    bad = [record for record in sent if record.reason]
    assert len(bad) >= 20 * PARTITIONS
    running.append(projector(settings))
    await running[0].start()
    await write(settings, sent)
    log = await equals_fold(settings)
    for tally in fold_of(log).tallies().values():
        assert tally.applied == tally.dead == len(bad) // PARTITIONS
    letters = (await read_topic(settings, settings.dead_topic))[0]
    found = {letter.headers[-1][1]: letter for letter in letters}
    assert len(found) == len(letters) == len(bad)
    for partition, records in log.records.items():
        for original, was in zip(
            records, (record for record in sent if record.partition == partition), strict=True
        ):
            letter = found.pop(place_of(settings.topic, original), None)
            assert (letter is not None) == (was.reason is not None), original
            if letter is not None and was.reason is not None:
                assert (letter.key, letter.value) == (was.key, was.value)
                assert letter.headers[: len(HEADERS)] == HEADERS
                names, values = zip(*letter.headers[len(HEADERS) :], strict=True)
                assert names == ("jobtrail-reason", "jobtrail-detail", "jobtrail-place")
                assert values[0] == was.reason.encode()
                assert values[1].decode()
    assert found == {}
    assert losses(settings) == []


async def write_misnamed(settings: Settings, records: list[Sent]) -> None:
    """Append one batch of records; the names of headers that are `?` become a byte 0xFF.

    No client's producer can be asked for that, so the finished batch is changed, and its checksum.
    """
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, acks="all") as to:
        batch = to.create_batch()
        for record in records:
            headers = list(record.headers)
            assert batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)
        data = batch._build()
        at = [place for place in range(len(data)) if data[place : place + 2] == b"\x02?"]
        assert len(at) == sum(("?", b"x") in record.headers for record in records)
        for place in at:
            data[place + 1] = 0xFF
        struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
        await (await to.send_batch(batch, settings.topic, partition=records[0].partition))


@pytest.fixture
def any_header_name() -> Iterator[None]:
    """Let the consumers of this process read what those of the service can."""
    before = fetcher.MemoryRecords
    read_any_header_name()
    yield
    fetcher.MemoryRecords = before


@pytest.mark.usefixtures("any_header_name")
async def test_a_header_whose_name_is_no_text_stops_neither_projector_nor_tail_nor_bodies(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    running += [projector(settings), api(settings)]
    await running[0].start()
    token = make_token(local_secret(settings.data_dir), "root", (), [READ_ALL])
    job, key = JOBS[3], JOBS[3].encode()
    bad = Sent(3, key, event("cancelled", job, "bad"), None, (("ok", b"y"), ("?", b"x")))
    first = event("created", job, "first", jobType="scan", owner="o")
    last = event("completed", job, "last")
    url = await running[1].start()
    bearer = {"Authorization": f"Bearer {token}"}
    async with asyncio.timeout(DEADLINE), aiohttp.ClientSession(url, headers=bearer) as session:
        await write(settings, [Sent(3, key, first)])
        await reached(settings, {3: 1})
        body = {"jobIds": [job], "wait": 60}
        waiting = asyncio.create_task(session.post("/jobs/statuses", json=body))
        while "jobtrail_waits_held 1" not in await (await session.get("/metrics")).text():
            pass
        await write_misnamed(settings, [bad, bad._replace(value=None), Sent(3, key, last)])
        assert (await (await waiting).json())[job]["state"] == "completed"
        log = await equals_fold(settings)
        history = await (await session.get(f"/jobs/{job}/history")).json()
        assert [entry["event"]["id"] for entry in history["events"]] == ["first", "last"]
    assert [record.value for record in log.records[3]] == [first, bad.value, None, last]
    letters = (await read_topic(settings, settings.dead_topic))[0]
    assert [letter.value for letter in letters] == [bad.value, None]
    for letter, reason in zip(letters, (b"header-not-utf-8", b"no-value"), strict=True):
        assert letter.key == key
        assert letter.headers[:2] == (("ok", b"y"), (r"\xff", b"x"))
        assert letter.headers[2] == ("jobtrail-reason", reason)
    assert losses(settings) == []


async def test_bad_records_of_the_largest_size_are_buried_too(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    running.append(projector(settings))
    await running[0].start()
    job, key = JOBS[0], JOBS[0].encode()
    # All that Kafka takes, and all that it takes once it is compressed.
    full, vast = os.urandom(1024 * 1024 - 200), b"\x00" * (3 << 20)
    await write(settings, [Sent(0, key, full, None, HEADERS)])
    await write(settings, [Sent(0, key, vast, None, HEADERS)], compression_type="gzip")
    await write(settings, [Sent(0, key, event("active", job, "good"))])
    tally = fold_of(await equals_fold(settings)).tallies()[0]
    assert (tally.applied, tally.dead) == (1, 2)
    first, second = (await read_topic(settings, settings.dead_topic))[0]
    assert (first.key, first.value, first.headers[: len(HEADERS)]) == (key, full, HEADERS)
    assert (second.key, second.value) == (key, vast[: 1 << 20])
    name, size = second.headers[0]
    assert name == "jobtrail-cut"
    assert int(size) > len(vast)
    assert second.headers[1] == ("jobtrail-reason", b"too-large")
