"""The log in a real Kafka, archived while it is written; its beginning deleted; read as one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from jobtrail.core.errors import ArchiveError, LogGapError
from jobtrail.replay import Replay
from jobtrail.replay.archive.description import Archive, LogName
from jobtrail.replay.archive.joined import JoinedSource
from jobtrail.replay.archive.place import ArchiveStore
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.archive.writing import Archived, Archiver, open_for
from jobtrail.replay.sources.holes import Holes
from jobtrail.replay.sources.log import LogSource
from jobtrail.settings import Settings
from tests.archiving import Record, plain_hash, rows
from tests.conftest import MakeLog
from tests.e2e.service import command
from tests.processes import clean_environment

PARTITIONS = 3
SIZE = 200


async def produce(settings: Settings, count: int, sent: list[list[Record]], first: int = 0) -> None:
    """Write records, some of them no events, and note where Kafka has put each."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers, enable_idempotence=True, linger_ms=1
    )
    async with producer:
        for n in range(first, first + count):
            key = None if n % 11 == 0 else b"job-%d" % (n % 40)
            value = None if n % 7 == 0 and key else b'{"number":%d}' % n
            headers = [("n", b"%d" % n), ("empty", b"")] if n % 5 == 0 else []
            at = (n % PARTITIONS, 1_700_000_000_000 + n, key, value, headers)
            acknowledged = await producer.send(
                settings.topic,
                value,
                key,
                partition=n % PARTITIONS,
                timestamp_ms=at[1],
                headers=headers,
            )
            acknowledged.add_done_callback(lambda done, at=at: sent[at[0]].append(_of(done, *at)))
            if n % 50 == 0:
                await asyncio.sleep(0)
        await producer.flush()


def _of(
    done: Any, partition: int, timestamp: int, key: bytes, value: bytes, headers: Any
) -> Record:
    return {
        "partition": partition,
        "offset": done.result().offset,
        "logged_at": timestamp * 1_000,
        "key": key,
        "value": value,
        "headers": [{"name": name.encode(), "value": content} for name, content in headers],
    }


async def jobtrail(settings: Settings, *arguments: object, status: int = 0) -> tuple[bytes, str]:
    """Run a command on this log; return what it prints, and its messages."""
    child = await asyncio.create_subprocess_exec(
        *command(*map(str, arguments)),
        env=clean_environment()
        | {
            "JOBTRAIL_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "JOBTRAIL_TOPIC": settings.topic,
            "JOBTRAIL_DATA_DIR": str(settings.data_dir),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await child.communicate()
    assert child.returncode == status, errors.decode()
    return out, errors.decode()


async def delete_before(settings: Settings, offsets: dict[int, int]) -> None:
    """Delete the log's beginning, as retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records(
            {TopicPartition(settings.topic, p): RecordsToDelete(n) for p, n in offsets.items()}
        )
    finally:
        await admin.close()


def hashes(records: list[list[Record]]) -> list[str]:
    return [plain_hash(sorted(held, key=lambda one: one["offset"])) for held in records]


def read_all(settings: Settings, to: Path) -> list[list[Record]]:
    """Read archive and log as one, by partition."""
    source = JoinedSource(ArchiveSource.open(str(to)), LogSource(settings))
    found: list[list[Record]] = [[] for _ in range(PARTITIONS)]
    try:
        for row in rows(source):
            found[row["partition"]].append(row)
    finally:
        source.close()
    return found


def archive_in(to: Path, settings: Settings, **options: Any) -> Archived:
    """Archive in this process."""
    log = LogSource(settings)
    try:
        kept = open_for(ArchiveStore.open(str(to)), LogName("cluster", "topic"), log, SIZE)
        return Archiver(kept, log, **options).run(lambda _: None)
    finally:
        log.close()


async def test_nothing_is_lost_from_the_producer_to_the_archive(
    make_log: MakeLog, tmp_path: Path
) -> None:
    settings, to = await make_log(partitions=PARTITIONS), tmp_path / "archive"
    sent: list[list[Record]] = [[] for _ in range(PARTITIONS)]
    await produce(settings, 700, sent)

    # While a producer writes, now only closed segments, now all.
    writing = asyncio.create_task(produce(settings, 6_000, sent))
    archive = ("archive", "--to", to, "--segment-records", SIZE, "--json")
    await jobtrail(settings, *archive)
    out, errors = await jobtrail(settings, *archive, "--all")
    await writing
    outcome = json.loads(out)
    assert errors == ""
    assert outcome.keys() == {"segments", "records", "bytes", "archived"}
    kept = Archive.open(str(to))
    assert outcome["archived"] == {str(p): end for p, end in kept.ends().items()}
    assert kept.description.topic == settings.topic
    assert len(kept.description.cluster) == 22, "no id of a Kafka cluster"

    # What is archived goes, but for a part that both hold in one partition.
    await delete_before(settings, {0: kept.ends()[0], 1: kept.ends()[1] - SIZE // 2, 2: 10})
    assert hashes(await asyncio.to_thread(read_all, settings, to)) == hashes(sent)

    out, errors = await jobtrail(settings, "archive", "--to", to, "--verify", "--json")
    records = sum(kept.ends().values())
    segments = sum(map(len, kept.spans.values()))
    assert json.loads(out) == {"segments": segments, "records": records, "faults": []}


async def test_a_loss_is_told(make_log: MakeLog, tmp_path: Path) -> None:
    settings, to = await make_log(partitions=PARTITIONS), tmp_path / "archive"
    sent: list[list[Record]] = [[] for _ in range(PARTITIONS)]
    await produce(settings, 3 * SIZE, sent)
    assert (await asyncio.to_thread(archive_in, to, settings)).records == 3 * SIZE
    await produce(settings, 3 * SIZE, sent)
    await delete_before(settings, {1: SIZE + 70})
    for read in (archive_in, lambda to, settings: read_all(settings, to)):
        with pytest.raises(LogGapError, match=f"partition 1, offsets {SIZE} to {SIZE + 69}"):
            await asyncio.to_thread(read, to, settings)
    done = await asyncio.to_thread(archive_in, to, settings, holes=Holes(lambda _: None))
    assert done.records == SIZE - 70


async def test_another_log_is_refused(make_log: MakeLog, tmp_path: Path) -> None:
    settings, to = await make_log(partitions=PARTITIONS), tmp_path / "archive"
    other = await make_log(partitions=PARTITIONS)
    await produce(settings, 700, [[] for _ in range(PARTITIONS)])
    await produce(other, 701, [[] for _ in range(PARTITIONS)], first=1)
    await asyncio.to_thread(archive_in, to, settings)
    await delete_before(other, {0: 50})
    with pytest.raises(ArchiveError, match="of another log"):
        await asyncio.to_thread(archive_in, to, other)


async def test_an_archive_alone_is_read_without_a_cluster(
    make_log: MakeLog, tmp_path: Path
) -> None:
    settings, to = await make_log(partitions=PARTITIONS), tmp_path / "archive"
    await produce(settings, 700, [[] for _ in range(PARTITIONS)])
    await asyncio.to_thread(archive_in, to, settings, rest=True)
    with Replay.open(archive=str(to), data_dir=tmp_path) as replay:
        assert sum(map(len, replay.record_batches())) == 700
    away = settings.model_copy(update={"bootstrap_servers": ""})
    out, errors = await jobtrail(away, "replay", "--archive", to)
    assert (out, errors.partition(" ")[0]) == (b"", "700")
