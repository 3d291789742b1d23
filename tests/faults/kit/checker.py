"""The one checker: what was acknowledged, the raw log, the store, and what clients were told.

The log is read by plain aiokafka and folded by the second model; the store is read by plain SQL, as
it is at one instant, whatever goes on.

`python -m tests.faults.kit.checker SERVERS TOPIC STORE ACKS` checks a service from outside, while
it runs; exit 1 where something is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from aiokafka.errors import KafkaError

from tests.faults.kit import reader, store
from tests.faults.kit.model import STATES, Job, Model
from tests.faults.kit.told import Told

#: Differences of a kind that are told in words.
_WORDS: Final = 10
#: Seconds between two looks at what the store holds by now.
_FOLLOW_EVERY: Final = 10.0
_TELL_EVERY: Final = 10.0
#: Rows between two turns of the event loop: while all goes on, others want to get theirs.
_ROWS_AT_ONCE: Final = 200
PLACE: Final = "jobtrail-place"


@dataclass
class Report:
    """What a check found. `lost`, `double` and `differences` are to be 0.

    Attributes:
        records: Records of the log that were folded.
        jobs: Jobs that they tell of.
        acknowledged: Events whose acknowledgement was looked at.
        lost: Acknowledged events that the log does not have at their place.
        double: Events that took effect twice: that stand in a trail more often than in the log.
        differences: Rows, counters, tallies and dead letters that are not as the model has them, by
            kind.
        feed: Gaps and repeats of listeners.
        seen: Answers that no fold explains: states that went back, or are of no time.
        words: The first of each kind.
        seconds: What the check took.
        peak_mib: The most memory that it took.
    """

    records: int = 0
    jobs: int = 0
    acknowledged: int = 0
    lost: int = 0
    double: int = 0
    differences: Counter[str] = field(default_factory=Counter)
    feed: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_mib: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        found = (self.differences, self.feed, self.seen)
        return not (self.lost or self.double or any(sum(counts.values()) for counts in found))

    def as_json(self) -> dict[str, Any]:
        """Return all of it, as JSON has it."""
        return {**vars(self), "ok": self.ok}

    def note(self, counts: Counter[str], kind: str, words: str) -> None:
        """Take down something that is wrong."""
        counts[kind] += 1
        if counts[kind] <= _WORDS:
            self.words.append(f"{kind}: {words}")


class Acks:
    """What was acknowledged, by partition: offsets in order, and hashes of the events' ids."""

    def __init__(self, path: Path) -> None:
        offsets: dict[int, array[int]] = {}
        ids: dict[int, array[int]] = {}
        with path.open() as lines:
            for line in lines:
                partition, offset, event_id = line.rstrip("\n").split(" ", 2)
                number = int(partition)
                offsets.setdefault(number, array("q")).append(int(offset))
                ids.setdefault(number, array("q")).append(hash(event_id) if event_id else 0)
        self.places: dict[int, tuple[Any, Any]] = {}
        for number, found in offsets.items():
            at = np.frombuffer(found, "<i8")
            order = np.argsort(at, kind="stable")
            self.places[number] = (at[order], np.frombuffer(ids[number], "<i8")[order])


class Checker:
    """Folds a log as it grows, and compares a store with the fold as often as one likes.

    Args:
        servers: Kafka.
        topic: The log.
        folder: The store.
        partitions: Of the log.
    """

    def __init__(self, servers: str, topic: str, folder: Path, partitions: int) -> None:
        self._servers = servers
        self._topic = topic
        self._folder = folder
        self.model = Model(partitions, store.hash_of, store.apart_hash_of)
        self.told = Told(self.model)
        #: Per partition, of each record: its offset, and the hash of its event's id, else 0.
        self._offsets = {p: array("q") for p in range(partitions)}
        self._ids = {p: array("q") for p in range(partitions)}
        self._folding = asyncio.Lock()
        self.records = 0

    async def follow(self) -> None:
        """Fold what the store holds, for ever: little is left to do at the end."""
        while True:
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with self._folding:
                    await self._fold(store.position(self._folder))
            await asyncio.sleep(_FOLLOW_EVERY)

    async def _fold(
        self, position: dict[int, int], tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Fold the log up to a position."""
        if all(self.model.position[p] >= at for p, at in position.items()):
            return
        last_told = time.monotonic()
        begin = dict(self.model.position)
        async for partition, records in reader.read(self._servers, self._topic, position, begin):
            for one in records:
                result = self.model.take(partition, one.offset, one.timestamp, one.key, one.value)
                self.told.take(partition, one.offset, result)
                self._offsets[partition].append(one.offset)
                self._ids[partition].append(hash(result[2].id) if result is not None else 0)
            self.records += len(records)
            await asyncio.sleep(0)
            if time.monotonic() - last_told > _TELL_EVERY:
                last_told = time.monotonic()
                tell(f"folded {self.records:,} of {sum(position.values()):,} records")

    async def compare(self, tell: Callable[[str], None] = lambda _: None) -> Report:
        """Compare all of the store with the fold, at the position that the store is at."""
        began = time.monotonic()
        report = Report()
        async with self._folding:
            with store.shards(self._folder) as shards:
                position = {p: at for shard in shards for p, at in shard.position().items()}
                await self._fold(position, tell)
                for partition, at in self.model.position.items():
                    if position.get(partition, 0) < at:
                        words = f"partition {partition} was at {at}, is at {position[partition]}"
                        report.note(report.differences, "back", words)
                report.records, report.jobs = self.records, len(self.model.jobs)
                tell(f"{report.records:,} records are {report.jobs:,} jobs; comparing rows")
                await _compare_rows(shards, self.model, report)
                _compare_counts(shards, self.model, report)
        report.seconds = round(time.monotonic() - began, 1)
        report.peak_mib = round(psutil.Process().memory_info().rss / (1 << 20), 1)
        return report

    def compare_acks(self, acks: Acks, report: Report, *, whole: bool) -> None:
        """Look for each acknowledged event at its place in the log.

        Args:
            acks: What was acknowledged.
            report: Takes in what is wrong.
            whole: Whether the store has to hold all of it.
        """
        for partition, (at, ids) in acks.places.items():
            end = self.model.position[partition]
            if whole and int(at[-1]) >= end:
                words = f"partition {partition} at {end}, acknowledged {at[-1]}"
                report.note(report.differences, "behind", words)
            ids, at = ids[at < end], at[at < end]
            # One more, so that there is a place for each.
            offsets = np.array([*self._offsets[partition], -1], "<i8")
            known = np.array([*self._ids[partition], 0], "<i8")
            places = np.searchsorted(offsets[:-1], at)
            found = (offsets[places] == at) & ((ids == 0) | (known[places] == ids))
            report.acknowledged += len(at)
            report.lost += int((~found).sum())
            report.words += [f"lost: {partition}:{offset}" for offset in at[~found][:_WORDS]]

    async def compare_dead(self, dead_topic: str, report: Report) -> None:
        """Hold the dead letters, of which each may come more than once, against the model's."""
        found = set()
        async for _, records in reader.read(self._servers, dead_topic):
            for record in records:
                place = dict(record.headers).get(PLACE, b"").decode()
                name, partition, offset = place.rsplit("/", 2)
                if name == self._topic:
                    found.add((int(partition), int(offset)))
        for place in self.model.dead - found:
            report.note(report.differences, "dead-letter", f"{place} is not there")
        for partition, offset in found - self.model.dead:
            if offset < self.model.position[partition]:
                words = f"{partition}:{offset} is a valid event"
                report.note(report.differences, "dead-letter", words)


async def check(
    servers: str,
    topic: str,
    folder: Path,
    acks: Acks,
    *,
    dead_topic: str | None = None,
    whole: bool = True,
) -> Report:
    """Compare a store with the fold of its log, once.

    Args:
        servers: Kafka.
        topic: The log.
        folder: The store.
        acks: What was acknowledged.
        dead_topic: Where records are that are no valid event; None: not looked at.
        whole: Whether the store has to hold all that was acknowledged.
    """
    checker = Checker(servers, topic, folder, len(store.position(folder)))
    report = await checker.compare()
    checker.compare_acks(acks, report, whole=whole)
    if dead_topic is not None:
        await checker.compare_dead(dead_topic, report)
    return report


async def _compare_rows(shards: list[store.Shard], model: Model, report: Report) -> None:
    left = dict.fromkeys(model.jobs)
    for shard in shards:
        for number, row in enumerate(shard.rows()):
            if number % _ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            job = model.jobs.get(row.id)
            if job is None or row.id not in left:
                report.note(report.differences, "ghost", f"{row.id} is in the store only, or twice")
                continue
            del left[row.id]
            _compare_row(row, job, report)
    for job_id in left:
        report.note(report.differences, "missing", f"{job_id} is not in the store")


def _compare_row(row: store.Row, job: Job, report: Report) -> None:
    found = (
        row.owner, row.viewers, row.kind, row.state, row.created, row.updated, row.started,
        row.ended, row.attempt, row.progress, row.bulk, list(row.tags.items()), row.error,
        row.output, row.source, row.writers,
    )  # fmt: skip
    expected = (
        job.owner, job.viewers, job.kind, job.state, job.created, job.updated, job.started,
        job.ended, job.attempt, job.progress, job.bulk, list((job.tags or {}).items()), job.error,
        job.output, job.source, job.writers,
    )  # fmt: skip
    if found != expected:
        words = f"{job.id}: expected {expected}, found {found}"
        report.note(report.differences, "row", words)
    if row.trail == store.packed(job.trail):
        return
    entries = store.unpack(row.trail)
    offsets = [entry[1] for entry in entries]
    report.double += len(offsets) - len(set(offsets))
    words = f"{job.id}: expected {job.entries()}, found {[entry[1:] for entry in entries]}"
    report.note(report.differences, "trail", words)


def _compare_counts(shards: list[store.Shard], model: Model, report: Report) -> None:
    counters: dict[Any, list[int]] = {}
    totals: dict[Any, list[int]] = {}
    for job in model.jobs.values():
        state, day = STATES.index(job.state), job.created // store.DAY
        for audience in ((job.owner, job.viewers), None):
            counters.setdefault((audience, day, job.kind), [0] * 7)[state] += 1
        totals.setdefault((job.kind,), [0] * 7)[state] += 1
    _compare_sums("counter", counters, [shard.counters() for shard in shards], report)
    _compare_sums("total", totals, [shard.totals() for shard in shards], report)
    for shard in shards:
        for partition, tally in shard.tallies().items():
            expected = model.tallies[partition]
            if any(expected[name] != count for name, count in tally.items()):
                words = f"partition {partition}: expected {dict(expected)}, found {tally}"
                report.note(report.differences, "tally", words)


def _compare_sums(
    kind: str, expected: dict[Any, list[int]], of_shards: list[dict[Any, Any]], report: Report
) -> None:
    found: dict[Any, list[int]] = {}
    for counts in of_shards:
        for bucket, row in counts.items():
            sums = found.setdefault(bucket, [0] * 7)
            sums[:] = map(sum, zip(sums, row, strict=True))
    for bucket in expected.keys() | found.keys():
        if expected.get(bucket) != found.get(bucket):
            words = f"{bucket}: expected {expected.get(bucket)}, found {found.get(bucket)}"
            report.note(report.differences, kind, words)


def main() -> int:
    """Check a service from outside, and print what was found as JSON."""
    servers, topic, folder, acks = sys.argv[1:5]
    report = asyncio.run(check(servers, topic, Path(folder), Acks(Path(acks)), whole=False))
    sys.stdout.write(json.dumps(report.as_json()) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
