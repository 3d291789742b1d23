"""A report: the figures of one range of the log, and the files that show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from jobtrail.core.errors import UsageError
from jobtrail.files.atomic import atomic_write
from jobtrail.replay.export.csv_cells import guarded
from jobtrail.replay.report import svg
from jobtrail.replay.report.changes import Bins, Range, changes
from jobtrail.replay.report.figure import Figure, plain
from jobtrail.replay.report.figures import FIGURES
from jobtrail.replay.report.page import About, page
from jobtrail.replay.report.plots import PLOTS
from jobtrail.replay.report.style import styled


@dataclass(frozen=True)
class Report:
    """What a range of the log says, in figures that are small whatever its length."""

    about: About
    figures: Mapping[str, Figure]
    #: The first and last instant, microseconds since 1970; None where nothing happened.
    begin: int | None
    end: int | None
    bins: Bins | None

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, range_: Range, about: About) -> Report:
        """Compute a report.

        Args:
            connection: With the tables `jobs` and `transitions` of jobtrail/replay/schemas.py, as
                they are at the end of the range.
            range_: Which changes are counted.
            about: What the page says of itself.
        """
        with changes(connection, range_) as found:
            figures = {name: figure(found) for name, figure in FIGURES.items()}
            return cls(about, figures, found.begin, found.end, found.bins)

    def write_page(self, file: Path) -> None:
        """Write everything as one HTML file that needs no other."""
        with styled():
            text = page(self.about, self.figures, self.begin, self.end, self.bins)
        _write(file, text.encode())

    def write_csv(self, folder: Path, *, raw: bool = False) -> list[Path]:
        """Write each figure as a CSV file into a folder; return the files.

        Args:
            folder: It is made where it is not there.
            raw: Leave cells as they are that a spreadsheet takes for formulas.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for name, figure in self.figures.items():
            file = folder / f"{name}.csv"
            lines = io.StringIO(newline="")
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(column.name for column in figure.columns)
            for row in figure.rows:
                cells = map(plain, figure.columns, row)
                writer.writerow(cells if raw else map(guarded, cells))
            atomic_write(file, lines.getvalue().encode())
            files.append(file)
        return files

    def write_png(self, name: str, file: Path) -> None:
        """Write one plot as a PNG.

        Args:
            name: One of `PLOTS`.
            file: Where to.

        Raises:
            UsageError: There is no plot of this name.
        """
        if name not in PLOTS:
            raise UsageError(
                "There is no such plot.", expected=", ".join(PLOTS), found=repr(name[:80])
            )
        with styled():
            _write(file, svg.png(PLOTS[name](self.figures)))


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, content)
