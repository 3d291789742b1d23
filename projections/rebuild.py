"""Folds a shard again while the old one is in use: `python -m projections.rebuild`.

`jobtrail rebuild` runs it. The new shard is folded in a folder of its own by the ordinary projector
and writer, up to the old one's checkpoint, repeatedly until its lag is small. Then the old one is
locked, the rest is folded, and the new one replaces it (see `projections.sqlite.write.replacing`).
It never goes further than the old one: later records are left to the projectors.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click
import orjson
from filelock import FileLock, Timeout

from jobtrail.core.errors import AlreadyRunning, LogGapError, StoreError, UsageError
from jobtrail.core.position import format_position
from jobtrail.log.consumers import Group
from jobtrail.log.kafka import Client
from jobtrail.log.log_range import LogRange
from jobtrail.log.questions import Log
from jobtrail.settings import Settings
from jobtrail.terminal.text import out, out_json
from projections.projector.continuity import check_partitions
from projections.projector.partition_state import DeadLetter
from projections.projector.projector import Projector
from projections.sqlite.files import schema
from projections.sqlite.write.replacing import Serving, remove_left
from projections.sqlite.write.writer import SqliteWriter
from projections.tool import Bar, main_of

#: The lag, in records, at which the old shard is locked: they are folded in a tenth of a second.
CLOSE: Final = 10_000
#: Seconds that the old shard may be locked; projectors wait for ten.
_LOCKED_WITHIN: Final = 3.0
#: How often the old shard is locked in vain before the rebuild fails.
_TRIES: Final = 10

#: Takes how many records are folded, and how many there are.
Show = Callable[[int, int], None]


class Rebuilt(NamedTuple):
    """The result of the rebuild of a shard."""

    shard: int
    #: Its position at the switch.
    position: dict[int, int]
    records: int
    seconds: float
    #: Seconds for which writers had to wait.
    locked: float


async def rebuild(
    settings: Settings,
    shard: int | None = None,
    *,
    from_what_is_left: bool = False,
    show: Show = lambda _done, _total: None,
) -> list[Rebuilt]:
    """Fold shards again from the log, one after the other, while they are in use.

    Args:
        settings: The log and the store.
        shard: The shard; None for all.
        from_what_is_left: Go on where the log no longer has all that is in a shard: the rest will
            be missing from the shard, too.
        show: Takes how many records are folded, and about how many there are.

    Returns:
        The result of each.

    Raises:
        AlreadyRunning: Another rebuild of this store runs.
        LogGapError: The log does not have all that is in the shard.
        LogUnavailable: Kafka does not answer.
        StoreError: The store does not exist, is of another log, or changed too much during the
            rebuild.
        UsageError: There is no such shard.
    """
    store = settings.store_folder
    layout = schema.read_layout(store)
    if shard is not None and shard >= layout.shards:
        raise UsageError(
            "The store has no such shard.",
            expected=f"0 to {layout.shards - 1}",
            found=str(shard),
        )
    shards = range(layout.shards) if shard is None else [shard]
    client = Client(settings)
    with _locked(store) as folder:
        async with _AnyGaps(settings.topic, client) as log, LogRange(settings) as records:
            check_partitions(log.partitions, layout.partitions)
            ends = await log.ends()
            begins = await log.begins()
            mine = [p for p in ends if p % layout.shards in shards]
            progress = _Progress(show, sum(ends[p] - begins[p] for p in mine))
            found = []
            for number in shards:
                job = _Rebuild(store, folder, layout, number, log, records, progress)
                found.append(await job.run(from_what_is_left=from_what_is_left))
            return found


class _AnyGaps(Log):
    """A log in which gaps are accepted: the old shard was folded over them, for any reason."""

    async def is_compacted(self) -> bool:
        """Tell that offsets may be missing."""
        return True


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[Path]:
    """Lock the store for a rebuild; remove what a killed one has left; yield the build folder."""
    try:
        with FileLock(store / "rebuild.lock", timeout=0):
            folder = store / "rebuild"
            shutil.rmtree(folder, ignore_errors=True)
            remove_left(store)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise AlreadyRunning(
            "Another rebuild of this store runs.", where=str(store), hint="Wait for its end."
        ) from None


class _Progress:
    """How many records of all shards are folded."""

    def __init__(self, show: Show, total: int) -> None:
        self._show = show
        self._total = total
        self.done = 0
        show(0, total)

    def add(self, records: int) -> None:
        self.done += records
        self._show(self.done, max(self.done, self._total))


class _Rebuild:
    """The rebuild of one shard."""

    def __init__(
        self,
        store: Path,
        folder: Path,
        layout: schema.Layout,
        shard: int,
        log: Log,
        records: LogRange,
        progress: _Progress,
    ) -> None:
        self._path = schema.shard_path(store, shard)
        self._folder = folder
        self._layout = layout
        self._shard = shard
        self._log = log
        self._records = records
        self._progress = progress
        self._position: dict[int, int] = {}
        #: The log's ends when this began.
        self._ends: dict[int, int] = {}

    async def run(self, *, from_what_is_left: bool) -> Rebuilt:
        began = time.monotonic()
        with contextlib.closing(Serving(self._path)) as serving:
            begins = await self._begins(serving, from_what_is_left=from_what_is_left)
            shutil.rmtree(self._folder, ignore_errors=True)
            schema.create(self._folder, self._layout, begins, begins)
            projector = Projector(
                SqliteWriter(self._folder), self._log, self._layout.partitions, _drop_dead_letters
            )
            try:
                target = self._target(serving)
                self._position = await projector.start_offsets(set(target))
                first = sum(self._position.values())
                await self._follow(projector, serving)
                locked = await self._switch(projector, serving)
            finally:
                projector.close()
            seconds = time.monotonic() - began
            records = sum(self._position.values()) - first
            return Rebuilt(self._shard, dict(self._position), records, seconds, locked)

    async def _begins(self, serving: Serving, *, from_what_is_left: bool) -> dict[int, int]:
        """Return where the log begins, after checking that it has all that is in the shard."""
        begins, ends = await self._log.begins(), await self._log.ends()
        self._ends = ends
        for partition, (next_offset, *_last) in serving.checkpoints().items():
            if next_offset > ends[partition]:
                raise LogGapError(
                    "The log has lost its end, so the shard can't be folded from it as it is.",
                    where=f"partition {partition}",
                    expected=f"a log that ends at offset {next_offset} or later",
                    found=f"a log that ends at {ends[partition]}",
                    hint="A projector that runs notices it, and folds what is there.",
                )
        for partition, first in serving.first_offsets().items():
            if first < begins[partition] and not from_what_is_left:
                raise LogGapError(
                    "The log no longer has all that is in the shard: what it does not have would "
                    "be lost.",
                    where=f"partition {partition}",
                    expected=f"a log that begins at offset {first} or earlier",
                    found=f"a log that begins at {begins[partition]}",
                    hint="Leave the shard as it is; or give --from-what-is-left to lose it.",
                )
        return begins

    def _target(self, serving: Serving) -> dict[int, int]:
        return {p: next_offset for p, (next_offset, *_last) in serving.checkpoints().items()}

    def _lag(self, target: dict[int, int]) -> int:
        """Return how many offsets are left to be folded.

        Raises:
            StoreError: The old shard went back.
        """
        for partition, next_offset in target.items():
            if next_offset < self._position[partition]:
                raise StoreError(
                    "The shard was emptied during the rebuild, and is being folded again already.",
                    where=f"partition {partition} of {self._path}",
                    expected=f"a checkpoint at offset {self._position[partition]} or later",
                    found=str(next_offset),
                    hint="Nothing is left to be rebuilt.",
                )
        return sum(target.values()) - sum(self._position[partition] for partition in target)

    async def _follow(self, projector: Projector, serving: Serving) -> None:
        """Fold until the lag to the old shard is small."""
        while self._lag(target := self._target(serving)) > CLOSE:
            await self._fold_to(projector, target)

    async def _switch(self, projector: Projector, serving: Serving) -> float:
        """Fold the rest while the old shard is locked, and replace it by the new one.

        Returns:
            Seconds for which it was locked.
        """
        for _ in range(_TRIES):
            began = time.monotonic()
            with serving.locked():
                target = self._target(serving)
                if await self._fold_rest(projector, target):
                    projector.close()
                    serving.hand_over(self._folder, self._shard, self._ends)
                    return time.monotonic() - began
            # Drops what was folded and not written.
            self._position = await projector.start_offsets(set(target))
            await self._follow(projector, serving)
        raise StoreError(
            "The rebuilt shard did not catch up with the old one.",
            where=str(self._path),
            expected=f"the rest in {_LOCKED_WITHIN:.0f} s",
            hint="Try again when less is written, or on a faster disk; the old one stays in use.",
        )

    async def _fold_rest(self, projector: Projector, target: dict[int, int]) -> bool:
        """Fold what is left; return whether it took no longer than writers can wait."""
        if self._lag(target):
            try:
                async with asyncio.timeout(_LOCKED_WITHIN):
                    await self._fold_to(projector, target)
            except TimeoutError:
                return False
        return True

    async def _fold_to(self, projector: Projector, target: dict[int, int]) -> None:
        group: Group | None = None
        async for partition, group in self._records.read(self._position, target):
            part = group.until(target[partition])
            await projector.apply(partition, part, more=True)
            self._check(projector)
            self._progress.add(part.next_offset - self._position[partition])
            self._position[partition] = part.next_offset
        if group is not None:
            # It has no new records: applying it again writes what waits to be written.
            await projector.apply(partition, part)

    def _check(self, projector: Projector) -> None:
        for reason in projector.stopped.values():
            raise StoreError("The log can't be folded.", found=reason)


async def _drop_dead_letters(_letters: Sequence[DeadLetter]) -> None:
    """Do nothing: the old shard is after them, so they are in the dead-letter topic."""


@click.command()
@click.option("--shard", type=click.IntRange(0))
@click.option("--from-what-is-left", is_flag=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--with-parent", is_flag=True, help="End when standard input ends.")
def main(shard: int | None, from_what_is_left: bool, as_json: bool, with_parent: bool) -> None:
    """Fold shards of the store again from the log, while they serve."""

    async def run(settings: Settings) -> int:
        with Bar("rebuild") as bar:
            found = await rebuild(
                settings, shard, from_what_is_left=from_what_is_left, show=bar.show
            )
        if as_json:
            rows = [{**one._asdict(), "position": format_position(one.position)} for one in found]
            out_json(orjson.dumps(rows))
        else:
            for one in found:
                out(
                    f"shard {one.shard}: {one.records:,} records in {one.seconds:.1f} s, writers "
                    f"waited {one.locked:.2f} s, position {format_position(one.position)}"
                )
        return 0

    sys.exit(main_of(run, with_parent=with_parent))


if __name__ == "__main__":
    main()
