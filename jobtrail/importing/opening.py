"""Opening files to import: plain, gzip or zstd, known by their first bytes, in bounded memory."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, TextIO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: The most characters or bytes of a line; a row may hold more than its events.
MAX_LINE: Final = 1 << 20
#: What reading raises where a file is cut or damaged.
DAMAGED: Final = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError, UnicodeError)

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


def open_bytes(file: Path) -> IO[bytes]:
    """Open a file, decompressed."""
    with file.open("rb") as probe:
        head = probe.read(4)
    if head.startswith(_GZIP):
        return cast(IO[bytes], gzip.open(file, "rb"))
    if head == _ZSTD:
        return io.BufferedReader(zstd.open(file, "rb"))
    return file.open("rb")


def open_text(file: Path, encoding: str = "utf-8") -> TextIO:
    """Open a file as text, decompressed; bytes that are none become lone surrogates."""
    return io.TextIOWrapper(
        open_bytes(file), encoding=encoding, errors="surrogateescape", newline=""
    )


def text_lines(text: TextIO, instead: str) -> Iterator[str]:
    """Yield the lines of a text; one that is longer than `MAX_LINE` is never held as a whole.

    Args:
        text: What to read.
        instead: What to yield for such a line.
    """
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            while (rest := text.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
                pass
            line = instead
        yield line


def byte_lines(lines: IO[bytes]) -> Iterator[bytes | None]:
    """Yield lines; None for one that is longer than `MAX_LINE`, never held as a whole."""
    while line := lines.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := lines.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield line
