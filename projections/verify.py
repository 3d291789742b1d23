"""Verification of a store: `python -m projections.verify`, which `jobtrail verify` runs.

The log is folded again, independently, and everything in the store is compared with the result:
rows, trails, counters, totals, changes, tallies, audiences, checkpoints. Shards are verified one by
one, each as of its own checkpoint at one moment, while everything else goes on.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import apsw
import click
import orjson
from filelock import FileLock, Timeout

from jobtrail.core.errors import AlreadyRunning, StoreError
from jobtrail.core.position import LastRecord, format_position
from jobtrail.local.verified import Verified, write_verified
from jobtrail.log.log_range import LogRange
from jobtrail.log.questions import last_record
from jobtrail.settings import Settings
from jobtrail.terminal.text import out, out_json
from projections.ports.write import Tally
from projections.sqlite.files import schema
from projections.tool import Bar, main_of
from projections.verifying.changes import RecordOfChanges
from projections.verifying.copies import copied
from projections.verifying.folding import Fold, JobSubset
from projections.verifying.report import Report
from projections.verifying.rows import RowComparison
from projections.verifying.runs import check_runs
from projections.verifying.tables import check_tables

#: Jobs that are folded at a time: about 2 KiB each, so that all takes less than 1 GiB.
JOBS_AT_A_TIME: Final = 200_000
#: Differences that are listed by default.
LIMIT: Final = 20
#: Events of a job that are expected at most, where the store says that it has fewer jobs.
_EVENTS: Final = 16
#: Quoted, since SQL has a word `foreign` of its own.
_TALLY: Final = ", ".join(f'"{name}"' for name in Tally._fields)

#: Takes how many records are done, and how many there are.
Show = Callable[[int, int], None]


async def verify(
    settings: Settings,
    *,
    sample: int = 1,
    limit: int = LIMIT,
    jobs_at_a_time: int = JOBS_AT_A_TIME,
    show: Show = lambda _done, _total: None,
) -> Report:
    """Compare a store with the fold of its log, while both go on.

    Args:
        settings: The log and the store.
        sample: Compare one job in so many, by a hash of its id.
        limit: How many differences are listed; all are counted.
        jobs_at_a_time: How many jobs are in memory, about 2 KiB each.
        show: Takes how many records are read, and about how many there are.

    Returns:
        What was found. Where nothing differs, the store's folder says so from now on.

    Raises:
        AlreadyRunning: Another verification of this store runs.
        LogUnavailable: Kafka does not answer.
        LogGapError: The log's beginning moved during the verification.
        StoreError: The store does not exist, is of another log, or can't be copied.
    """
    began = time.monotonic()
    report = Report(limit, sample)
    layout = schema.read_layout(settings.store_folder)
    async with LogRange(settings) as log:
        if log.partitions != layout.partitions:
            raise StoreError(
                "The log and the store have another number of partitions.",
                where=str(settings.store_folder),
                expected=f"{layout.partitions} partitions, as the store was made",
                found=f"{log.partitions} in the topic {settings.topic}",
            )
        with _folder(settings.store_folder) as folder:
            verification = _Verification(log, layout, report, jobs_at_a_time, show)
            await verification.begin()
            for shard in range(layout.shards):
                await verification.check(schema.shard_path(settings.store_folder, shard), folder)
    report.seconds = time.monotonic() - began
    if not report.count:
        position = format_position(report.position, report.marks)
        write_verified(settings.store_folder, Verified(position, time.time(), sample))
    return report


@contextlib.contextmanager
def _folder(store: Path) -> Iterator[Path]:
    """Make the folder of the copies; remove what a killed verification has left there."""
    folder = store / "verify"
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            for left in folder.glob("*.db*"):
                left.unlink()
            yield folder
    except Timeout:
        raise AlreadyRunning(
            "Another verification of this store runs.", where=str(store), hint="Wait for its end."
        ) from None


class _Verification:
    """One run over the shards."""

    def __init__(
        self, log: LogRange, layout: schema.Layout, report: Report, at_a_time: int, show: Show
    ) -> None:
        self._log = log
        self._layout = layout
        self._report = report
        self._at_a_time = at_a_time
        self._show = show
        self._begins: Mapping[int, int] = {}
        self._ends: Mapping[int, int] = {}
        self._done = self._total = 0

    async def begin(self) -> None:
        """Read how many records there are."""
        self._begins, ends = await self._log.begins(), await self._log.ends()
        self._total = sum(ends[partition] - begin for partition, begin in self._begins.items())
        self._show(0, self._total)

    async def check(self, shard: Path, folder: Path) -> None:
        """Compare one shard."""
        name = shard.stem
        try:
            with copied(shard, folder) as db:
                # Read after the copy was made, which must not seem to be ahead of the log.
                self._ends = await self._log.ends()
                rows = RowComparison(db, self._report)
                for partition, *checkpoint in self._checkpoints(db, shard):
                    await self._check_partition(db, rows, partition, checkpoint)
                subset = JobSubset(self._report.sample)
                rows.check_rest(self._layout.partitions, self._begins, subset)
                check_runs(db, self._report, name)
                check_tables(db, self._report, name)
        except apsw.Error as error:
            self._unreadable(name, schema.said(error))
        except (ValueError, TypeError, LookupError, struct.error) as error:
            # In a damaged file anything may stand anywhere.
            self._unreadable(name, repr(error))

    def _unreadable(self, name: str, found: str) -> None:
        self._report.differ("file", name, "readable", "yes", f"{found}; the rest was not compared")

    def _checkpoints(self, db: Any, shard: Path) -> list[tuple[Any, ...]]:
        rows = db.execute(
            "SELECT partition, next_offset, last_offset, last_mark, last_timestamp, last_epoch, "  # noqa: S608
            f"{_TALLY} FROM checkpoints ORDER BY partition"
        ).fetchall()
        layout = self._layout
        mine = [
            partition
            for partition in range(layout.partitions)
            if schema.shard_path(shard.parent, partition % layout.shards) == shard
        ]
        if [row[0] for row in rows] != mine:
            found = [row[0] for row in rows]
            self._report.differ("checkpoint", shard.stem, "partitions", mine, found)
        return [row for row in rows if row[0] in mine]

    async def _check_partition(
        self, db: Any, rows: RowComparison, partition: int, checkpoint: list[Any]
    ) -> None:
        report, (next_offset, *rest) = self._report, checkpoint
        where = f"partition {partition}"
        begin, end = self._begins[partition], self._ends[partition]
        report.position[partition] = next_offset
        if next_offset > end:
            report.differ("checkpoint", where, "next offset", f"{end} at most", next_offset)
        stop = min(next_offset, end)
        changes = RecordOfChanges(db, partition, begin, report)
        judged = Tally()
        records = 0
        last: LastRecord | None = None
        for subset in self._subsets(db, begin, stop):
            fold = Fold(partition, self._layout.partitions, subset)
            records, last = await self._read(fold, begin, stop)
            changes.compare(fold, *rows.compare(fold, begin))
            judged = Tally(*(a + b for a, b in zip(judged, fold.tally, strict=True)))
        report.records += records
        if last is not None:
            report.marks[partition] = last.mark
        if report.sample == 1 and next_offset <= end:
            changes.check_rest()
        self._check_tally(where, begin, records, judged, Tally(*rest[4:]))
        if last is not None and next_offset <= end:
            found = LastRecord(*rest[:4])
            if found != last:
                report.differ("checkpoint", where, "last record", last, found)

    def _subsets(self, db: Any, begin: int, stop: int) -> list[JobSubset]:
        """Divide a partition's jobs into subsets that fit into memory."""
        (jobs,) = db.execute("SELECT count(*) FROM jobs").fetchone()
        (partitions,) = db.execute("SELECT count(*) FROM checkpoints").fetchone()
        expected = max(jobs // max(partitions, 1), (stop - begin) // _EVENTS)
        subsets = max(-(-expected // (self._at_a_time * self._report.sample)), 1)
        self._total += (subsets - 1) * (stop - begin)
        return [JobSubset(self._report.sample, subsets, number) for number in range(subsets)]

    async def _read(self, fold: Fold, begin: int, stop: int) -> tuple[int, LastRecord | None]:
        """Fold a subset of a partition; return how many records there were, and the last one."""
        partition = fold.partition
        count = 0
        last: LastRecord | None = None
        async for _partition, group in self._log.read({partition: begin}, {partition: stop}):
            for records in group.until(stop).pieces():
                if records:
                    fold.add(records)
                    count += len(records)
                    last = last_record(records[-1], group.epoch)
            self._done += min(group.next_offset, stop) - group.begin
            self._show(self._done, self._total)
        return count, last

    def _check_tally(
        self, where: str, begin: int, records: int, judged: Tally, found: Tally
    ) -> None:
        report = self._report
        if begin > 0 and sum(found) > records:
            # It includes records that the log no longer has.
            return
        if report.sample == 1 and judged != found:
            report.differ("tally", where, "records by verdict", judged, found)
        elif sum(found) != records:
            report.differ("tally", where, "records", records, sum(found))


@click.command()
@click.option("--sample", type=click.IntRange(1), default=1)
@click.option("--limit", type=click.IntRange(0), default=LIMIT)
@click.option("--json", "as_json", is_flag=True)
@click.option("--with-parent", is_flag=True, help="End when standard input ends.")
def main(sample: int, limit: int, as_json: bool, with_parent: bool) -> None:
    """Compare the store with the log; the exit status is 1 where they differ."""

    async def run(settings: Settings) -> int:
        with Bar("verify") as bar:
            report = await verify(settings, sample=sample, limit=limit, show=bar.show)
        if as_json:
            out_json(orjson.dumps(report.as_json()))
        else:
            for line in report.lines():
                out(line)
        return 1 if report.count else 0

    sys.exit(main_of(run, with_parent=with_parent))


if __name__ == "__main__":
    main()
