"""`jobtrail report`: what jobs did over a range of the log, as one page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from jobtrail.cli.common import (
    archive_option,
    holes_option,
    log_options,
    prepare_to_read,
    raw_option,
)
from jobtrail.cli.reading import reading
from jobtrail.core.position import format_position
from jobtrail.terminal.text import out, out_json

if TYPE_CHECKING:
    from jobtrail.replay.report import Report


@click.command()
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page: a self-contained HTML file.",
)
@click.option(
    "--from", "since", metavar="WHEN", help="Only what changed at or after an instant or position."
)
@click.option(
    "--until", metavar="WHEN", help="Up to an instant, a date's last one, or before a position."
)
@click.option("--user", "users", multiple=True, help="Only jobs of this owner; repeatable.")
@click.option("--job-type", "job_types", multiple=True, help="Only this type; repeatable.")
@click.option(
    "--csv",
    "csv_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each figure as a CSV file into this folder.",
)
@raw_option
@click.option(
    "--png", type=click.Path(path_type=Path, dir_okay=False), help="Write the plot of --plot here."
)
@click.option("--plot", help="types, arrivals, flow, waiting, running, rates, slowest or users.")
@click.option("--max-rate", type=click.FloatRange(min=1), help="Records read a second at most.")
@click.option("--json", "as_json", is_flag=True, help="Print the written files as JSON.")
@archive_option
@holes_option
@log_options
def report(
    to: Path | None,
    since: str | None,
    until: str | None,
    users: tuple[str, ...],
    job_types: tuple[str, ...],
    csv_folder: Path | None,
    png: Path | None,
    plot: str | None,
    raw: bool,
    max_rate: float | None,
    as_json: bool,
    archive: str | None,
    skip_holes: bool,
    bootstrap_servers: str | None,
    data_dir: Path | None,
) -> None:
    """Write what jobs did: arrivals, ends, waiting, running, failures, who and which took longest.

    An instant is ISO 8601, a position has the form 0:10,1:7.
    """
    if (png is None) is not (plot is None):
        raise click.UsageError("--png and --plot go together.")
    if raw and csv_folder is None:
        raise click.UsageError("--raw is about cells of CSV: give --csv.")
    if to is None and csv_folder is None and png is None:
        raise click.UsageError("There is no output: give --to, --csv or --png.")
    prepare_to_read()
    from jobtrail.replay import Filters
    from jobtrail.replay.export.database import open_database
    from jobtrail.replay.replay import instant_of, meant
    from jobtrail.replay.report import PLOTS, About, Range, Report

    if plot is not None and plot not in PLOTS:
        raise click.BadParameter(f"expected one of {', '.join(PLOTS)}", param_hint="--plot")
    range_ = Range(meant(since), instant_of(until, last=True))
    with (
        reading(
            "events",
            bootstrap_servers=bootstrap_servers,
            data_dir=data_dir,
            archive=archive,
            max_rate=max_rate,
            skip_holes=skip_holes,
        ) as opened,
        tempfile.TemporaryDirectory(prefix="jobtrail-report-") as folder,
        open_database(Path(folder) / "report.duckdb", memory_mib=256) as database,
    ):
        with opened.fold(until, Filters(users=users, job_types=job_types)) as folded:
            folded.jobs.to_duckdb(database, "jobs")
            folded.transitions.to_duckdb(database, "transitions")
        about = About(
            log=opened.name,
            position=opened.end_of(until),
            asked=_asked(since, until),
            filters=(*(f"user {u}" for u in users), *(f"type {name}" for name in job_types)),
            made=datetime.now(UTC),
        )
        found = Report.of(database, range_, about)
    _say(found, list(_write(found, to, csv_folder, png, plot, raw)), as_json)


def _asked(since: str | None, until: str | None) -> str:
    """Return the requested range as text."""
    asked = [f"{word} {when}" for word, when in (("from", since), ("until", until)) if when]
    return " ".join(asked) or "the complete log"


def _say(found: Report, written: list[Path], as_json: bool) -> None:
    """Print the files that were written."""
    if not as_json:
        for file in written:
            out(str(file))
        return
    counts = {name: found.figures["totals"].column(name)[0] for name in ("jobs", "events")}
    files = [str(file) for file in written]
    position = format_position(found.about.position)
    out_json(orjson.dumps({"files": files, "position": position, **counts}))


def _write(
    found: Report,
    to: Path | None,
    csv_folder: Path | None,
    png: Path | None,
    plot: str | None,
    raw: bool,
) -> Iterator[Path]:
    """Write the requested files; yield each."""
    if to is not None:
        found.write_page(to)
        yield to
    if csv_folder is not None:
        yield from found.write_csv(csv_folder, raw=raw)
    if png is not None and plot is not None:
        found.write_png(plot, png)
        yield png
