"""The results as tables, on a terminal and in docs/performance.md: `python -m benchmarks.report`.

The page is written anew between two markers; everything else in it is left as it is. The picture
of `size` is put beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table

from benchmarks import FIGURES, LONG, results
from benchmarks.picture import picture
from benchmarks.results import Result, as_text, in_order

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN: Final = "<!-- results: written by python -m benchmarks.report -->"
END: Final = "<!-- results: end -->"
PICTURE: Final = "size.svg"


def table(found: Sequence[Result]) -> Table:
    """Return the table for a terminal."""
    drawn = Table(title="Figures", title_justify="left")
    for heading in ("figure", "measure", "result"):
        drawn.add_column(heading, overflow="fold")
    for result in found:
        lines = _lines(result)
        for number, (measure, told) in enumerate(lines):
            name = result.figure if number == 0 else ""
            drawn.add_row(name, measure, told, end_section=number == len(lines) - 1)
    return drawn


def _lines(result: Result) -> list[tuple[str, str]]:
    """Return what was measured of what, in words: rows of one measure share a line."""
    told: dict[str, list[str]] = {}
    for row in result.rows:
        told.setdefault(row.measure, []).append(as_text(row.values, row.unit))
    return [(measure, "; ".join(parts)) for measure, parts in told.items()]


def markdown(found: Sequence[Result]) -> str:
    """Return machine and table for the page."""
    if not found:
        return "There are no results yet: `make bench`, then `python -m benchmarks.report`."
    parts = []
    for machine in _machines(found):
        mine = [result for result in found if _place(result) == machine]
        parts += [machine, "", "| figure | measure | result |", "|---|---|---|"]
        for result in mine:
            for number, (measure, told) in enumerate(_lines(result)):
                name = f"`{result.figure}`" if number == 0 else ""
                parts.append(f"| {name} | {measure} | {told} |")
        parts.append("")
    if any(result.figure == "size" for result in found):
        parts.append(f"![`size`: cost of an event by the number of jobs]({PICTURE})")
    return "\n".join(parts).rstrip()


def _machines(found: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(_place(result) for result in found))


def _place(result: Result) -> str:
    """Say where a result was measured; those of one place share a table."""
    machine = result.machine
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"{machine['kernel']}; {machine['python']}, SQLite {machine['sqlite']}, Java "
        f"{machine['java']}, Kafka {machine['kafka']}, jobtrail {machine['jobtrail']}; {libraries}."
    )


def rewrite(page: str, text: str) -> str:
    """Return a page with other text between its markers.

    Raises:
        ValueError: The page does not have both markers, once each and in order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page needs {BEGIN} and, behind it, {END}")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="Write the results into the page."
    )
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="their folder")
    parser.add_argument("--page", type=Path, default=PAGE, help="docs/performance.md")
    parsed = parser.parse_args(arguments)
    found = in_order(
        [results.read(path) for path in parsed.results.glob("*.json")], (*FIGURES, *LONG)
    )
    for result in found:
        if result.figure == "size":
            parsed.page.with_name(PICTURE).write_text(picture(result), encoding="utf-8")
    page = parsed.page.read_text(encoding="utf-8")
    parsed.page.write_text(rewrite(page, markdown(found)), encoding="utf-8")
    print(f"{len(found)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
