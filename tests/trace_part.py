"""A part of the Google trace."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path


def first_rows(trace: Path, folder: Path, rows: int) -> Path:
    """Return a file of its own, in a folder, with the trace's header and first rows."""
    path = folder / "part.csv"
    with gzip.open(trace, "rt", encoding="utf-8") as lines, path.open("w") as file:
        file.writelines(itertools.islice(lines, rows + 1))
    return path
