"""What importers make of a row: its events, or the reason why it is rejected."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Made(NamedTuple):
    """An event that is ready for the log."""

    job: str
    #: Its name, as `job.created`.
    type: str
    #: The encoded event, known to be valid.
    value: bytes


class Row(NamedTuple):
    """One row of a file, as events or as the reason why there are none."""

    file: Path
    #: The number of its first line, or of the row where a file has no lines; from 1.
    line: int
    events: tuple[Made, ...] = ()
    #: Why it is rejected; empty where it is not.
    error: str = ""
    #: Which column is to blame, where one is.
    column: str = ""
