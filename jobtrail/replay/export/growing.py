"""Exports of events that grow: files of lines, and folders of Parquet files.

How far one is, is said by a mark in a hidden folder beside it: the position in the log, and what of
the export belongs to it. What is added is on the disk before the mark is, and the mark changes at
once; so the next process cuts off what a killed process left behind the mark, and nothing is
missing or there twice. A lock in the same folder keeps a second process away.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import pyarrow as pa
from filelock import FileLock, Timeout

from jobtrail.core.errors import UsageError
from jobtrail.core.position import format_position, parse_position
from jobtrail.files.atomic import atomic_write, sync
from jobtrail.replay.export.export import (
    PARQUET,
    csv_head,
    csv_lines,
    ndjson,
    to_parquet,
    to_parquet_by_day,
)
from jobtrail.replay.filters import Filters
from jobtrail.replay.schemas import EVENTS
from jobtrail.replay.tables import Spool

#: Bytes of lines that are written and marked together at most, but for what one batch makes.
_LINES_BYTES: Final = 16 * 2**20
#: Of the end of a file of lines, by which it is known again.
_TAIL: Final = 4096
#: A part of a folder is whole after so many rows, or so many seconds after its first.
_PART_ROWS: Final = 1_000_000
_PART_SECONDS: Final = 60.0
_PART_MEMORY: Final = 64 * 2**20
_PART: Final = re.compile(r"part-(\d{8,})-\d+\.parquet")


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an export is of; one that goes on has to be asked for the same."""

    filters: dict[str, Any] = {}
    #: Where it begins, as somebody said it; None: where the log does, or as it began before.
    since: str | None = None
    by_day: bool = False
    #: Of CSV: cells that look like formulas are left as they are.
    raw: bool = False

    @classmethod
    def of(
        cls, filters: Filters, since: str | None, *, by_day: bool = False, raw: bool = False
    ) -> Self:
        """Return what is selected, however it was put."""
        given = {
            name: value if isinstance(value, dict) else sorted(map(str, value))
            for name, value in asdict(filters).items()
            if value
        }
        return cls(filters=given, since=since, by_day=by_day, raw=raw)


class _Mark(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How far an export is."""

    selection: Selection
    #: The text form; None: nothing was written yet.
    position: str | None = None
    #: Of a file of lines: its length, and a hash of its end.
    length: int = 0
    tail: str = ""
    #: Of a folder: how many parts are whole.
    parts: int = 0


class Growing(ABC):
    """An export that events are added to; made by `growing`.

    Args:
        path: Of the export.
        folder: The hidden one.
        selection: What is asked for.

    Raises:
        UsageError: What lies there can't be gone on with.
    """

    def __init__(self, path: Path, folder: Path, selection: Selection) -> None:
        self.path = path
        #: Rows that were added and marked.
        self.rows = 0
        self._folder = folder
        self._waiting = 0
        self._mark = self._found(selection)

    @property
    def since(self) -> str | None:
        """Where it began, as somebody said it then; None: where the log does."""
        return self._mark.selection.since

    @property
    def position(self) -> dict[int, int] | None:
        """Where to go on, per partition; None: where the selection begins."""
        position = self._mark.position
        return None if position is None else parse_position(position)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next rows, of `schemas.EVENTS`."""
        if len(batch):
            self._waiting += len(batch)
            self._take(batch)

    def commit(self, position: dict[int, int]) -> None:
        """Write what was taken, and then that the export holds the log up to a position."""
        if self._waiting:
            self._write()
        self._mark.position = format_position(position)
        self._keep_mark()
        self.rows += self._waiting
        self._waiting = 0

    @abstractmethod
    def due(self, *, at_end: bool) -> bool:
        """Tell whether it is time to commit.

        Args:
            at_end: Whether all that is in the log now was added.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files."""

    @abstractmethod
    def _take(self, batch: pa.RecordBatch) -> None: ...

    @abstractmethod
    def _write(self) -> None:
        """Put what was taken on the disk, and into the mark what of the export belongs to it."""

    @abstractmethod
    def _check(self, mark: _Mark) -> None:
        """Check that what is there is what the mark is of, and cut off what is behind it."""

    def _found(self, selection: Selection) -> _Mark:
        """Return the mark of the export that is there; begin one where none is."""
        file = self._folder / "mark.json"
        if not self.path.exists():
            self._mark = _Mark(selection=selection)
            self._keep_mark()
            return self._mark
        if not file.exists():
            raise _no_growth(self.path, "one that was not made so")
        mark = msgspec.json.decode(file.read_bytes(), type=_Mark)
        if selection.since is None:
            selection = msgspec.structs.replace(selection, since=mark.selection.since)
        if mark.selection != selection:
            raise _no_growth(
                self.path,
                f"one of {_said(mark.selection)}",
                expected=f"an export of {_said(selection)}",
            )
        self._check(mark)
        return mark

    def _keep_mark(self) -> None:
        atomic_write(self._folder / "mark.json", msgspec.json.encode(self._mark))


class _Lines(Growing):
    """A file of lines: NDJSON, or CSV."""

    def __init__(self, path: Path, folder: Path, selection: Selection) -> None:
        self._lines: list[bytes] = []
        self._bytes = 0
        self._is_csv = path.suffix.lower() == ".csv"
        super().__init__(path, folder, selection)
        self._file = path.open("ab")
        with path.open("rb") as file:
            self._tail = _end_of(file, self._mark.length)
        if self._is_csv and not self._mark.length:
            self._lines.append(csv_head(EVENTS))

    def due(self, *, at_end: bool) -> bool:
        return bool(self._waiting) and (at_end or self._bytes >= _LINES_BYTES)

    def close(self) -> None:
        self._file.close()

    def commit(self, position: dict[int, int]) -> None:
        if self._lines and not self._waiting:
            self._write()
        super().commit(position)

    def _take(self, batch: pa.RecordBatch) -> None:
        raw = self._mark.selection.raw
        some = [csv_lines(batch, raw=raw)] if self._is_csv else list(ndjson(batch))
        self._bytes += sum(map(len, some))
        self._lines += some

    def _write(self) -> None:
        content = b"".join(self._lines)
        self._file.write(content)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._lines, self._bytes = [], 0
        self._tail = (self._tail + content)[-_TAIL:]
        self._mark.length += len(content)
        self._mark.tail = _hash(self._tail)

    def _check(self, mark: _Mark) -> None:
        with self.path.open("r+b") as file:
            if mark.length and _hash(_end_of(file, mark.length)) != mark.tail:
                raise _no_growth(self.path, "one that somebody has changed")
            file.truncate(mark.length)


class _Parts(Growing):
    """A folder of Parquet files, or with a folder in it for each day."""

    def __init__(self, path: Path, folder: Path, selection: Selection) -> None:
        if path.is_file():
            raise _no_growth(path, "a file: Parquet grows as a folder of files")
        super().__init__(path, folder, selection)
        path.mkdir(exist_ok=True)
        sync(path.parent)
        self._rows = self._new_rows()
        self._since = 0.0

    def due(self, *, at_end: bool) -> bool:
        if not self._waiting:
            return False
        return self._waiting >= _PART_ROWS or time.monotonic() - self._since >= _PART_SECONDS

    def close(self) -> None:
        self._rows.table().close()

    def _take(self, batch: pa.RecordBatch) -> None:
        if not self._rows.rows:
            self._since = time.monotonic()
        self._rows.add(batch)

    def _write(self) -> None:
        draft = self._folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        table, self._rows = self._rows.table(), self._new_rows()
        if self._mark.selection.by_day:
            to_parquet_by_day(EVENTS, table.batches(), draft)
        else:
            draft.mkdir()
            to_parquet(EVENTS, table.batches(), draft / "part-0.parquet")
        table.close()
        for file in sorted(draft.rglob("*.parquet")):
            sync(file)
            number = file.stem.partition("-")[2]
            within = (self.path / file.relative_to(draft)).parent
            within.mkdir(exist_ok=True)
            file.replace(within / f"part-{self._mark.parts:08}-{number}.parquet")
            sync(within)
        sync(self.path)
        shutil.rmtree(draft)
        self._mark.parts += 1

    def _check(self, mark: _Mark) -> None:
        for file in self.path.rglob("part-*.parquet"):
            part = _PART.fullmatch(file.name)
            if part is not None and int(part[1]) >= mark.parts:
                file.unlink()

    @staticmethod
    def _new_rows() -> Spool:
        return Spool(EVENTS, _PART_MEMORY)


@contextlib.contextmanager
def growing(path: Path, selection: Selection) -> Iterator[Growing]:
    """Open an export that grows, or begin one where nothing is.

    Args:
        path: Of a file in NDJSON or CSV, or of a folder in .parquet.
        selection: What it is of.

    Raises:
        UsageError: What lies there can't be gone on with, or another process adds to it.
    """
    folder = path.parent / f".{path.name}.growing"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError("Another process adds to this export.", where=str(path)) from None
    try:
        kind = _Parts if path.suffix.lower() == PARQUET else _Lines
        with contextlib.closing(kind(path, folder, selection)) as export:
            yield export
    finally:
        lock.release()


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _end_of(file: Any, length: int) -> bytes:
    """Return the last bytes of a file that is so long, or longer."""
    file.seek(max(0, length - _TAIL))
    found: bytes = file.read(min(length, _TAIL))
    return found


def _said(selection: Selection) -> str:
    found = msgspec.json.encode(selection).decode()
    return "the whole log" if found == "{}" else found


def _no_growth(
    path: Path, found: str, expected: str = "an export that was begun with --since last or --follow"
) -> UsageError:
    return UsageError(
        "There is nothing to go on from.",
        where=str(path),
        expected=expected,
        found=found,
        hint="Give the same options as when it was begun, or another file.",
    )
