"""The report of rejected rows: the first on standard error, all of them in a file."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import click
import msgspec

from jobtrail.importing.row import Row
from jobtrail.terminal.text import err

#: The most rejected rows that are named on standard error.
MAX_NAMED: Final = 100
_encoder: Final = msgspec.json.Encoder()


class Rejects:
    """Names rejected rows. Use it as a context manager.

    Args:
        file: Where to write all of them, one JSON object a line; None: nowhere.
        unit: What rows are numbered by: `line` or `row`.
        before: How many rows an interrupted import rejected that is gone on with.
        keep: How many bytes of the file are that import's.
    """

    def __init__(
        self, file: Path | None, unit: str = "line", before: int = 0, keep: int = 0
    ) -> None:
        #: Where all of them are written, as a checkpoint names it.
        self.name = str(file.resolve()) if file else ""
        self.before = before
        self._file = file
        self._unit = unit
        self._keep = keep
        self._stream: IO[bytes] | None = None
        #: How many rows were rejected since.
        self.count = 0
        #: The length of the file.
        self.bytes = 0

    def __enter__(self) -> Self:
        if self._file is not None:
            kept = self._file.exists() and self._file.stat().st_size >= self._keep
            self.bytes = self._keep if kept else 0
            self._stream = self._file.open("r+b" if self.bytes else "wb")
            self._stream.truncate(self.bytes)
            self._stream.seek(self.bytes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        if self.count > MAX_NAMED:
            err(f"and {self.count - MAX_NAMED} more")

    def add(self, row: Row) -> None:
        """Name one."""
        self.count += 1
        file = click.format_filename(row.file)
        if self.count <= MAX_NAMED:
            where = f"{file}, {self._unit} {row.line}"
            column = f", column {row.column}" if row.column else ""
            err(f"{where}{column}: {row.error}")
        if self._stream is not None:
            line = {
                "file": file,
                self._unit: row.line,
                "column": _as_text(row.column) or None,
                "reason": _as_text(row.error),
            }
            self.bytes += self._stream.write(_encoder.encode(line) + b"\n")

    def flush(self) -> None:
        """Hand on what was written, so that a checkpoint may count on it."""
        if self._stream is not None:
            self._stream.flush()


def _as_text(said: str) -> str:
    """Return what JSON can hold: bytes of the file that are no text are lone surrogates in it."""
    return said.encode(errors="backslashreplace").decode()
