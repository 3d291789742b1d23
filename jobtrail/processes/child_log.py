"""Where a child's standard error is copied to: a rotating file, or our own standard error.

Writing never fails: bytes that can't be written are counted, and the log gets a note about them as
soon as it can be written.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from jobtrail.terminal.text import err, err_part

#: The largest log file: two of them are kept, a quarter of an hour of the worst that was seen.
MAX_BYTES: Final = 16 * 1024 * 1024
#: Seconds after a failed write in which no other is tried: opening a file takes the loop's time.
TRY_AGAIN_AFTER: Final = 1.0
#: Characters of the last line that are kept, and bytes of an unfinished one.
_SHOWN: Final = 500
_OPEN: Final = 4096


class _LastLine:
    """Keeps the last line that was written."""

    def __init__(self) -> None:
        #: The last line that is not empty, whether it was written or not.
        self.last_line = ""
        self._open_line = b""

    def begin(self) -> None:
        """Forget the last line of an earlier process."""
        self.last_line, self._open_line = "", b""

    def note(self, content: bytes) -> None:
        """Take note of written content."""
        *complete, rest = (self._open_line + content).split(b"\n")
        found = next((line for line in reversed(complete) if line.strip()), None)
        if found is not None:
            self.last_line = found.decode(errors="replace").strip()[:_SHOWN]
        self._open_line = rest[-_OPEN:]


class TerminalLog(_LastLine):
    """Our own standard error.

    At its first start on a terminal a child writes there directly, since it may show progress.
    """

    path: Final = None
    fault: Final = ""

    def __init__(self) -> None:
        super().__init__()
        #: Whether the child writes into a pipe whose content comes here.
        self.piped = False
        self._starts = 0

    def begin(self) -> None:
        """Start with a new process."""
        super().begin()
        self._starts += 1
        self.piped = self._starts > 1 or not is_terminal()

    def write(self, content: bytes) -> None:
        """Write it, ignoring errors."""
        self.note(content)
        with contextlib.suppress(OSError, ValueError):
            err_part(content.decode(errors="replace"))

    def close(self) -> None:
        """There is nothing to close."""


class RotatingLog(_LastLine):
    """A log file and the one before it, `NAME.log` and `NAME.log.1`.

    Args:
        path: The file; its folder is made.
        clock: A monotonic clock in seconds.
        max_bytes: Size at which it turns over.
    """

    def __init__(self, path: Path, clock: Callable[[], float], max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self.path = path
        self.piped = True
        #: Why the last write failed; empty where it did not.
        self.fault = ""
        self._clock = clock
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._lost = 0
        self._try_at = clock()

    def write(self, content: bytes) -> None:
        """Append content, as far as it can be written; empty content retries a failed write."""
        self.note(content)
        if self.fault and self._clock() < self._try_at:
            self._lost += len(content)
            return
        try:
            self._write(content)
        except OSError as error:
            self._lost += len(content)
            self.fault = f"{self.path} can't be written: {error.strerror or error}"
            self._try_at = self._clock() + TRY_AGAIN_AFTER
            self.close()
        else:
            self.fault = ""

    def _write(self, content: bytes) -> None:
        file = self._opened()
        if self._lost:
            note = f"[{self._lost} bytes were not written here: {self.fault}]\n".encode()
            _write_all(file, note)
            self._lost = 0
        _write_all(file, content)

    def _opened(self) -> BinaryIO:
        """Return the file to write to: a new one where it is full, removed or moved."""
        if self._file is not None:
            ours = os.fstat(self._file.fileno())
            try:
                there = self.path.stat()
            except FileNotFoundError:
                there = None
            if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
                self.close()
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        if os.fstat(self._file.fileno()).st_size >= self._max_bytes:
            self.close()
            self.path.replace(self.path.with_suffix(".log.1"))
            self._file = self.path.open("ab", buffering=0)
        return self._file

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _write_all(file: BinaryIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def say(what: str) -> None:
    """Print a line on standard error, ignoring errors."""
    with contextlib.suppress(OSError, ValueError):
        err(what)


def is_terminal() -> bool:
    """Tell whether standard error is a terminal."""
    with contextlib.suppress(OSError, ValueError):
        return sys.stderr.isatty()
    return False
