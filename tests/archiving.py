"""Logs to archive, as lists of records, and what an archive should then hold."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobtrail.replay.archive.description import Archive, LogName
from jobtrail.replay.archive.place import ArchiveStore
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.archive.writing import Archived, Archiver, open_for
from jobtrail.replay.schemas import RECORDS
from jobtrail.replay.sources.holes import Hole, Holes
from jobtrail.replay.sources.source import Source

Record = dict[str, Any]
NAME = LogName("cluster-1", "job-events")
SIZE = 100


def record(partition: int, offset: int, seed: int = 0) -> Record:
    """Return a record, among them such as are no valid events."""
    chance = random.Random(f"{seed}.{partition}.{offset}")
    headers = None
    if chance.random() < 0.2:
        headers = [
            {"name": chance.randbytes(3), "value": chance.choice([None, b"", chance.randbytes(9)])}
            for _ in range(chance.randrange(3))
        ]
    return {
        "partition": partition,
        "offset": offset,
        "logged_at": 1_700_000_000_000_000 + offset * 1_000,
        "key": chance.choice([None, b"", b"job-%d" % chance.randrange(50)]),
        "value": chance.choice([None, b"", b'{"id":"%d"}' % offset, chance.randbytes(60)]),
        "headers": headers,
    }


def batch_of(records: Sequence[Record]) -> pa.RecordBatch:
    columns = [
        pa.array([r[name] for r in records], pa.int64()).cast(RECORDS.field(name).type)
        if name == "logged_at"
        else pa.array([r[name] for r in records], RECORDS.field(name).type)
        for name in RECORDS.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORDS)


class ListLog:
    """A log in memory (a `Source`): it grows at its end, and its beginning can be deleted."""

    name = "a list"

    def __init__(self, *counts: int, seed: int = 0, batch: int = 37) -> None:
        self.records: list[list[Record]] = [[] for _ in counts]
        self.first = [0 for _ in counts]
        self.seed, self.batch = seed, batch
        self.compacted = False
        #: (partition, offset) of those without a record that the log accounts for, and of those
        #: that it has lost.
        self.without: set[tuple[int, int]] = set()
        self.lost: set[tuple[int, int]] = set()
        self.holes = Holes()
        #: Every range that was read, as (partition, first, end).
        self.reads: list[tuple[int, int, int]] = []
        self.grow(*counts)

    def grow(self, *counts: int) -> None:
        for partition, count in enumerate(counts):
            held = self.records[partition]
            held += [record(partition, len(held) + n, self.seed) for n in range(count)]

    def begins(self) -> dict[int, int]:
        return dict(enumerate(self.first))

    def ends(self) -> dict[int, int]:
        return {p: len(held) for p, held in enumerate(self.records)}

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        gone = self.without | self.lost
        for p in end:
            at = start.get(p, self.first[p])
            assert self.first[p] <= at <= end[p] <= len(self.records[p]), (p, at, end[p])
            self.reads.append((p, at, end[p]))
            for first in range(at, end[p], self.batch):
                upto = min(first + self.batch, end[p])
                for number in range(first, upto):
                    if (p, number) in self.lost:
                        self.holes.meet(Hole(p, number, number), "Lost.", found="", hint="")
                there = [(p, number) not in gone for number in range(first, upto)]
                if some := list(compress(self.records[p][first:upto], there)):
                    yield batch_of(some)

    def is_compacted(self) -> bool:
        return self.compacted

    def close(self) -> None:
        pass


def run(location: Path | str, log: ListLog, size: int = SIZE, **options: Any) -> Archived:
    """Archive a log; return what was done."""
    archiver = Archiver(open_for(ArchiveStore.open(str(location)), NAME, log, size), log, **options)
    return archiver.run(lambda _: None)


def rows(
    source: Source, start: Mapping[int, int] = {}, end: Mapping[int, int] = {}
) -> list[Record]:
    """Return what a source holds, or a range of it, in the order of partitions and offsets."""
    found: dict[int, list[Record]] = {p: [] for p in source.begins()}
    for batch in source.read(source.begins() | start, source.ends() | end):
        assert batch.schema == RECORDS
        columns = batch.set_column(2, "logged_at", batch["logged_at"].cast(pa.int64()))
        found[batch["partition"][0].as_py()] += columns.to_pylist()
    return [row for partition in sorted(found) for row in found[partition]]


def archived(location: Path | str) -> list[Record]:
    """Return what an archive holds."""
    return rows(ArchiveSource.open(str(location)))


def expected(log: ListLog, *ends: int) -> list[Record]:
    """Return the records of a log up to an offset per partition, also those deleted since."""
    gone = log.without | log.lost
    return [
        row
        for held, end in zip(log.records, ends, strict=True)
        for row in held[:end]
        if (row["partition"], row["offset"]) not in gone
    ]


def ends(location: Path | str) -> list[int]:
    return list(Archive.open(str(location)).ends().values())


def files(location: Path) -> dict[str, bytes]:
    return {
        path.relative_to(location).as_posix(): path.read_bytes()
        for path in sorted(location.rglob("*"))
        if path.is_file()
    }


def plain_hash(records: Sequence[Record]) -> str:
    """Compute the hash of one partition's records as docs/archive.md says, value by value."""

    def number(value: int) -> bytes:
        return struct.pack("<q", value)

    def length(value: bytes | None) -> bytes:
        return number(-1 if value is None else len(value))

    headers = [header for r in records for header in r["headers"] or []]
    streams = [
        [number(r["offset"]) for r in records],
        [number(r["logged_at"]) for r in records],
        [length(r["key"]) for r in records],
        [r["key"] or b"" for r in records],
        [length(r["value"]) for r in records],
        [r["value"] or b"" for r in records],
        [number(len(r["headers"] or [])) for r in records],
        [length(header["name"]) for header in headers],
        [header["name"] or b"" for header in headers],
        [length(header["value"]) for header in headers],
        [header["value"] or b"" for header in headers],
    ]
    digests = [hashlib.sha256(b"".join(stream)).digest() for stream in streams]
    head = b"jobtrail-records-1" + struct.pack("<iq", records[0]["partition"], len(records))
    return f"sha256:{hashlib.sha256(head + b''.join(digests)).hexdigest()}"
