"""The loop of every import: rows of files to the log, and how far Kafka has acknowledged them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from jobtrail.importing.checkpoint import Checkpoint, Done, Identity
from jobtrail.importing.rejects import Rejects
from jobtrail.importing.row import Made, Row
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from jobtrail.terminal.text import err

#: After how many rows a checkpoint is written, once Kafka has acknowledged their events.
CHECKPOINT_ROWS: Final = 1_000
#: How many events a dry run shows.
_FIRST: Final = 5


class Source(NamedTuple):
    """A file that can be imported."""

    file: Path
    identity: Identity
    #: Reads the rows behind the given number of rows.
    rows: Callable[[int], Iterator[Row]]


class Task(NamedTuple):
    """A file that is imported, and how far an interrupted import of it came."""

    source: Source
    checkpoint: Checkpoint
    done: Done | None


@dataclass
class Tally:
    """What an import made of the rows that it read."""

    rows: int = 0
    #: Rows that are no event by the mapping, and no fault either.
    without_event: int = 0
    #: Events by type.
    types: Counter[str] = field(default_factory=Counter)
    #: The first events.
    first: list[Made] = field(default_factory=list)

    def add(self, row: Row, rejects: Rejects) -> None:
        """Count a row, or have it named as rejected."""
        self.rows += 1
        if row.error:
            rejects.add(row)
        elif not row.events:
            self.without_event += 1


def tasks(settings: Settings, sources: Sequence[Source], log: str, *, restart: bool) -> list[Task]:
    """Find out what interrupted imports left to do, and say so on standard error.

    Args:
        settings: The log, and the data folder.
        sources: What is to be imported.
        log: What tells the log from others, see `Checkpoint`.
        restart: Whether to start at the first row, whatever was imported before.
    """
    found = []
    for source in sources:
        checkpoint = Checkpoint(settings, source.file, log)
        done = checkpoint.read()
        if done is not None and (restart or done.identity != source.identity):
            why = "as requested" if restart else "it or the mapping has changed since"
            err(f"{source.file}: an import was interrupted; it starts again, {why}")
            checkpoint.forget()
            done = None
        if done is not None:
            err(
                f"{source.file}: an import was interrupted; it continues after "
                f"{done.rows} rows, {done.refused} of them refused"
            )
        found.append(Task(source, checkpoint, done))
    return found


def rejects_of(todo: Sequence[Task], file: Path | None, unit: str) -> Rejects:
    """Return the report of rejected rows, going on with that of an interrupted import."""
    done = [task.done for task in todo if task.done is not None]
    name = Rejects(file).name
    kept = [d.rejects_bytes for d in done if d.rejects == name]
    return Rejects(file, unit, sum(d.refused for d in done), kept[-1] if kept else 0)


def preview(sources: Sequence[Source], rejects: Rejects, show: Callable[[int], None]) -> Tally:
    """Make the events of files without sending them."""
    tally = Tally()
    for source in sources:
        for row in source.rows(0):
            tally.add(row, rejects)
            for made in row.events:
                tally.types[made.type] += 1
                if len(tally.first) < _FIRST:
                    tally.first.append(made)
            show(tally.rows)
    return tally


async def write(
    settings: Settings, todo: Sequence[Task], rejects: Rejects, show: Callable[[int], None]
) -> tuple[LogWriter, Tally]:
    """Append the events of files to the log, and keep checkpoints while that lasts.

    Args:
        settings: The log.
        todo: The files.
        rejects: Where rejected rows are named.
        show: Is told how many events are acknowledged.

    Returns:
        What wrote them, with the position behind all of them, and what was made of the rows.

    Raises:
        LogUnavailable: Kafka did not acknowledge in time.
        UsageError: A file can't be used.
    """
    tally = Tally()
    async with LogWriter(settings) as writer:
        for task in todo:
            for partition, offset in (task.done.position if task.done else {}).items():
                writer.position[partition] = max(offset, writer.position.get(partition, 0))
        progress = _Progress(writer, rejects)
        try:
            for task in todo:
                batch = progress.begin(task)
                for row in task.source.rows(batch.rows):
                    tally.add(row, rejects)
                    for made in row.events:
                        batch.outstanding += 1
                        await writer.append(made.job, made.value, batch.acknowledged)
                    if batch.took(row) >= CHECKPOINT_ROWS:
                        batch = progress.next(batch)
                        show(writer.acknowledged)
                        # Rows without events don't let Kafka's answers in by themselves.
                        await asyncio.sleep(0)
                progress.close(batch)
        finally:
            await writer.settle()
            show(writer.acknowledged)
    for task in todo:
        task.checkpoint.forget()
    return writer, tally


class _Batch:
    """Some rows in a row, and how many of their events Kafka has not acknowledged yet."""

    def __init__(self, task: Task, rows: int, refused: int, advance: Callable[[], None]) -> None:
        self.task = task
        #: Rows of the file up to its end, and how many of them were refused.
        self.rows, self.refused = rows, refused
        self.rejects_bytes = 0
        self.outstanding = 0
        self.closed = False
        self._begin = rows
        self._advance = advance

    def took(self, row: Row) -> int:
        """Count a row; return how many the batch has."""
        self.rows += 1
        if row.error:
            self.refused += 1
        return self.rows - self._begin

    def acknowledged(self) -> None:
        """Count an event as acknowledged."""
        self.outstanding -= 1
        if not self.outstanding and self.closed:
            self._advance()


class _Progress:
    """Writes checkpoints behind the rows all of whose events, and all before, are acknowledged."""

    def __init__(self, writer: LogWriter, rejects: Rejects) -> None:
        self._writer = writer
        self._rejects = rejects
        self._batches: deque[_Batch] = deque()
        self._unwritable = False

    def begin(self, task: Task) -> _Batch:
        """Return the first batch of a file."""
        done = task.done
        return self._add(task, done.rows if done else 0, done.refused if done else 0)

    def next(self, batch: _Batch) -> _Batch:
        """Close a batch and return the one behind it."""
        self.close(batch)
        return self._add(batch.task, batch.rows, batch.refused)

    def _add(self, task: Task, rows: int, refused: int) -> _Batch:
        batch = _Batch(task, rows, refused, self._advance)
        self._batches.append(batch)
        return batch

    def close(self, batch: _Batch) -> None:
        """Say that a batch has all of its rows."""
        batch.rejects_bytes = self._rejects.bytes
        batch.closed = True
        self._advance()

    def _advance(self) -> None:
        done: dict[Path, _Batch] = {}
        while self._batches and self._batches[0].closed and not self._batches[0].outstanding:
            batch = self._batches.popleft()
            done[batch.task.source.file] = batch
        for batch in done.values():
            self._write(batch)

    def _write(self, batch: _Batch) -> None:
        self._rejects.flush()
        position = dict(self._writer.position)
        try:
            batch.task.checkpoint.write(
                Done(
                    identity=batch.task.source.identity,
                    rows=batch.rows,
                    refused=batch.refused,
                    rejects=self._rejects.name,
                    rejects_bytes=batch.rejects_bytes,
                    position=position,
                )
            )
        except OSError as error:
            if not self._unwritable:
                err(
                    f"If this import is interrupted, it starts again: {error} "
                    f"({batch.task.checkpoint.path})"
                )
            self._unwritable = True
