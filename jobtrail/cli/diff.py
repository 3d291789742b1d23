"""`jobtrail diff`: which jobs changed between two instants or positions."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from jobtrail.cli.common import (
    ROWS,
    archive_option,
    holes_option,
    log_options,
    prepare_to_read,
    tabular,
)
from jobtrail.cli.reading import reading
from jobtrail.core.states import STATES
from jobtrail.terminal.tables import Grid, Screen
from jobtrail.terminal.text import out_json

if TYPE_CHECKING:
    from jobtrail.replay.diff import Diff


@click.command()
@click.option("--from", "before", metavar="WHEN", required=True, help="An instant or a position.")
@click.option("--to", "after", metavar="WHEN", help="A later one; without it, the log's end.")
@click.option("--user", "users", multiple=True, help="Only jobs of this owner; repeatable.")
@click.option("--job-type", "job_types", multiple=True, help="Only this type; repeatable.")
@click.option("--limit", type=click.IntRange(1), help="How many jobs; on a terminal 50, else all.")
@click.option("--json", "as_json", is_flag=True, help="JSON, also on a terminal.")
@archive_option
@holes_option
@log_options
def diff(
    before: str,
    after: str | None,
    users: tuple[str, ...],
    job_types: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    archive: str | None,
    skip_holes: bool,
    bootstrap_servers: str | None,
    data_dir: Path | None,
) -> None:
    """Show which jobs changed between two instants or positions, and the counts before and after.

    As JSON, the first line has the counts, each further one a job.
    """
    prepare_to_read()
    from jobtrail.replay import Filters
    from jobtrail.replay.diff import diff_tables
    from jobtrail.replay.replay import meant, position_of

    filters = Filters(users=users, job_types=job_types)
    with reading(
        "events",
        bootstrap_servers=bootstrap_servers,
        data_dir=data_dir,
        archive=archive,
        skip_holes=skip_holes,
    ) as opened:
        found = diff_tables(
            # Events after a position can't change what was true before it.
            opened.event_batches(until=position_of(after)),
            meant(before, last=True),
            meant(after, last=True),
            keep=filters.keep if filters else None,
        )
    if tabular(as_json):
        _show(found, limit or ROWS)
        return
    out_json(orjson.dumps({"counts": _counts(found), "changed": len(found.jobs)}))
    for row in islice(_rows(found), limit):
        out_json(orjson.dumps(row, option=orjson.OPT_UTC_Z))


def _rows(found: Diff) -> Any:
    return (row for batch in found.jobs.batches() for row in batch.to_pylist())


def _counts(found: Diff) -> list[dict[str, Any]]:
    return [
        {
            "jobType": count.job_type,
            "before": {str(state): number for state, number in count.before.items()},
            "after": {str(state): number for state, number in count.after.items()},
        }
        for count in found.counts
    ]


def _show(found: Diff, limit: int) -> None:
    screen = Screen()
    counts = Grid("type", *STATES)
    for count in found.counts:
        pairs = [(count.before[state], count.after[state]) for state in STATES]
        texts = [f"{a:,}" if a == b else f"{a:,} → {b:,}" for a, b in pairs]
        counts.add(count.job_type or "?", *texts)
    screen.show(counts)
    jobs = Grid("job", "type", "owner", "before", "after", "events")
    for row in islice(_rows(found), limit):
        names = ("id", "job_type", "owner", "state_before", "state_after", "events")
        jobs.add(*("" if row[name] is None else str(row[name]) for name in names))
    screen.show(jobs)
    if len(found.jobs) > limit:
        screen.say(f"{len(found.jobs) - limit:,} more; --limit shows them.")
