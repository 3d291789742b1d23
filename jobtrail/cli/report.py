"""`jobtrail report`: what jobs did over a range of the log, as one page."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobtrail.cli.common import chosen_data_dir, log_options, needed, progress

if TYPE_CHECKING:
    from jobtrail.replay.report import Report


@click.command()
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page: one HTML file that needs no other.",
)
@click.option("--from", "since", metavar="WHEN", help="Begin at an instant or a position.")
@click.option("--until", metavar="WHEN", help="End at an instant or a position.")
@click.option("--user", "users", multiple=True, help="Only jobs of this owner; repeatable.")
@click.option("--job-type", "job_types", multiple=True, help="Only this type; repeatable.")
@click.option(
    "--csv",
    "csv_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for each figure as CSV.",
)
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="One plot as PNG.")
@click.option("--plot", help="Which plot --png is of.")
@click.option("--max-rate", type=click.FloatRange(min=1), help="Records read a second at most.")
@log_options
def report(
    to: Path,
    since: str | None,
    until: str | None,
    users: tuple[str, ...],
    job_types: tuple[str, ...],
    csv_folder: Path | None,
    png: Path | None,
    plot: str | None,
    max_rate: float | None,
    bootstrap_servers: str | None,
    data_dir: Path | None,
) -> None:
    """Write what jobs did: arrivals, ends, waiting, running, failures, who and which took longest.

    An instant is ISO 8601, a position is what every command and answer calls one, as 0:10,1:7.
    """
    if (png is None) is not (plot is None):
        raise click.UsageError("--png and --plot go together.")
    with needed("replay"):
        import duckdb

        from jobtrail.replay import Filters, Replay
        from jobtrail.replay.replay import instant_of, position_of
        from jobtrail.replay.report import PLOTS, About, Range, Report
    if plot is not None and plot not in PLOTS:
        raise click.BadParameter(f"expected one of {', '.join(PLOTS)}", param_hint="--plot")
    range_ = Range(position_of(since) or instant_of(since), instant_of(until))
    with (
        Replay.open(
            bootstrap_servers=bootstrap_servers,
            data_dir=chosen_data_dir(data_dir),
            max_rate=max_rate,
        ) as opened,
        tempfile.TemporaryDirectory(prefix="jobtrail-report-") as folder,
        duckdb.connect(str(Path(folder) / "report.duckdb")) as database,
    ):
        database.execute("SET memory_limit = '256MB'")
        total = sum(opened.ends[p] - begin for p, begin in opened.begins.items())
        with progress("reading events", total) as told:
            opened.progress = lambda done, _total: told(done)
            with opened.fold(until, Filters(users=users, job_types=job_types)) as folded:
                folded.jobs.to_duckdb(database, "jobs")
                folded.transitions.to_duckdb(database, "transitions")
        asked = [f"{word} {when}" for word, when in (("from", since), ("until", until)) if when]
        about = About(
            log=opened.name,
            position={**opened.ends, **(position_of(until) or {})},
            asked=" ".join(asked) or "the whole log",
            filters=(*(f"user {u}" for u in users), *(f"type {name}" for name in job_types)),
            made=datetime.now(UTC),
        )
        found = Report.of(database, range_, about)
    _write(found, to, csv_folder, png, plot)
    click.echo(str(to))


def _write(
    found: Report, to: Path, csv_folder: Path | None, png: Path | None, plot: str | None
) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    found.write_page(to)
    if csv_folder is not None:
        found.write_csv(csv_folder)
    if png is not None and plot is not None:
        found.write_png(plot, png)
