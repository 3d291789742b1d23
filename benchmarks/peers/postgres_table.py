"""A hand-written projection: `python -m benchmarks.peers.postgres_table --events N`.

What a team would write to keep a table of jobs up to date: aiokafka hands over a thousand events at
a time, what they come to for each job is worked out in Python, and one transaction writes it into
PostgreSQL, beside the offsets. The PostgreSQL is its own, and gone when it says `ready` and what it
measured; then it waits to be ended.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.peers import jobs_table
from benchmarks.usage import Usage, read, read_tree, taken
from jobtrail.processes.runtime import end_with_parent
from jobtrail.settings import Settings, load
from tests.postgres import Postgres, find_programs

#: Events of one transaction.
BATCH: Final = 1_000
_ENDED: Final = ("completed", "failed", "cancelled", "expired")

# Of what an event does not tell a job keeps what it has.
_WRITE: Final = """
INSERT INTO jobs SELECT id, owner, viewers::text[], type, state, bulk_id, created_at, started_at,
    updated_at, ended_at, attempt, progress, tags::jsonb, error::jsonb, output::jsonb
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
    $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::integer[],
    $12::double precision[], $13::text[], $14::text[], $15::text[]
) AS batch(id, owner, viewers, type, state, bulk_id, created_at, started_at, updated_at, ended_at,
    attempt, progress, tags, error, output)
ON CONFLICT (id) DO UPDATE SET
    owner = coalesce(excluded.owner, jobs.owner),
    viewers = coalesce(excluded.viewers, jobs.viewers),
    type = coalesce(excluded.type, jobs.type),
    state = excluded.state,
    bulk_id = coalesce(excluded.bulk_id, jobs.bulk_id),
    started_at = coalesce(jobs.started_at, excluded.started_at),
    updated_at = excluded.updated_at,
    ended_at = excluded.ended_at,
    attempt = excluded.attempt,
    progress = coalesce(excluded.progress, jobs.progress),
    tags = coalesce(excluded.tags, jobs.tags),
    error = coalesce(excluded.error, jobs.error),
    output = coalesce(excluded.output, jobs.output)
"""
_WRITE_OFFSETS: Final = """
INSERT INTO offsets SELECT * FROM unnest($1::integer[], $2::bigint[])
ON CONFLICT (partition) DO UPDATE SET next = excluded.next
"""


class _Data(msgspec.Struct, rename="camel"):
    """What any event's data may hold."""

    job_type: str | None = None
    owner: str | None = None
    bulk_id: str | None = None
    viewers: list[str] | None = None
    attempt: int = 0
    progress: float | None = None
    tags: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    subject: str
    type: str
    time: datetime
    data: _Data


_decode = msgspec.json.Decoder(_Event).decode


class _Row:
    """What a batch says of one job, in the order of the table's columns."""

    __slots__ = jobs_table.COLUMNS

    def __init__(self, event: _Event) -> None:
        self.id = event.subject
        self.created_at = event.time
        self.owner: str | None = None
        self.viewers: str | None = None
        self.type: str | None = None
        self.bulk_id: str | None = None
        self.started_at: datetime | None = None
        self.progress: float | None = None
        self.tags = self.error = self.output = None
        self.take(event)

    def take(self, event: _Event) -> None:
        data, kind = event.data, event.type[4:]
        if kind != "progress":
            self.state = kind
            self.ended_at = event.time if kind in _ENDED else None
        self.updated_at = event.time
        self.attempt = data.attempt
        if kind == "created":
            self.owner, self.type, self.bulk_id = data.owner, data.job_type, data.bulk_id
            self.viewers = f"{{{','.join(data.viewers or ())}}}"
        elif kind == "active" and self.started_at is None:
            self.started_at = event.time
        if data.progress is not None:
            self.progress = data.progress
        for name in ("tags", "error", "output"):
            raw = getattr(data, name)
            if raw:
                setattr(self, name, bytes(raw).decode())


def fold(values: Sequence[bytes]) -> list[list[Any]]:
    """Return the columns of what the events of a batch come to."""
    jobs: dict[str, _Row] = {}
    for value in values:
        event = _decode(value)
        row = jobs.get(event.subject)
        if row is None:
            jobs[event.subject] = _Row(event)
        else:
            row.take(event)
    return [[getattr(row, name) for row in jobs.values()] for name in jobs_table.COLUMNS]


def _usage(postgres: Postgres) -> Usage:
    return read(os.getpid()).and_of(read_tree(postgres.pid))


async def _follow(settings: Settings, postgres: Postgres, events: int) -> dict[str, float]:
    """Take so many events; return how long it took from the first ones' arrival, and what."""
    connection = await asyncpg.connect(await postgres.make("jobs"))
    await jobs_table.make(connection)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        group_id=settings.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.topic, n) for n in range(settings.partitions)])
        left, began = events, 0.0
        while left:
            found = await consumer.getmany(timeout_ms=1000, max_records=min(BATCH, left))
            if not found:
                continue
            if not began:
                began, before = time.perf_counter(), _usage(postgres)
            columns = fold([r.value for records in found.values() for r in records])
            ends = {tp.partition: records[-1].offset + 1 for tp, records in found.items()}
            async with connection.transaction():
                await connection.execute(_WRITE, *columns)
                await connection.execute(_WRITE_OFFSETS, list(ends), list(ends.values()))
            left -= sum(map(len, found.values()))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, **taken(before, _usage(postgres), seconds)}
    finally:
        await consumer.stop()
        await connection.close()


async def _run(settings: Settings, programs: Path, events: int) -> None:
    stop = asyncio.Event()
    end_with_parent(stop)
    # Beside the data, where no other user may go.
    postgres = Postgres(programs, jobs_table.PARAMETERS, settings.data_dir.parent)
    try:
        await postgres.start()
        found = await _follow(settings, postgres, events)
    finally:
        await postgres.remove()
    print("ready", msgspec.json.encode(found).decode(), flush=True)
    await stop.wait()


def main() -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, required=True)
    events = parser.parse_args().events
    programs = find_programs()
    if programs is None:
        parser.error("there is no PostgreSQL here")
    uvloop.run(_run(load(), programs, events))


if __name__ == "__main__":
    main()
