"""`jobtrail replay`: the log, or the jobs at an instant, to a file or a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import orjson
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from jobtrail.cli.ask import tabular
from jobtrail.cli.common import archive_option, chosen_data_dir, log_options, needed, progress
from jobtrail.position import format_position
from jobtrail.states import STATES

if TYPE_CHECKING:
    import pyarrow as pa

    from jobtrail.replay import Filters, Replay


#: As `--since`: where the last export to this file ended.
LAST: Final = "last"
#: Rows that a terminal gets unless told otherwise.
_ROWS: Final = 50
_SHOWN: Final = {
    "events": ("partition", "offset", "time", "type", "job_id", "attempt"),
    "jobs": ("id", "job_type", "state", "owner", "created_at", "ended_at", "attempt"),
    "transitions": ("job_id", "time", "from_state", "to_state", "attempt", "seconds"),
}


@click.command()
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file: .ndjson, .csv, .parquet, or .duckdb with events, jobs and transitions.",
)
@click.option(
    "--state-at", metavar="WHEN", help="The jobs as they were: an instant, a position, or `now`."
)
@click.option("--transitions", "of_transitions", is_flag=True, help="Every change of a state.")
@click.option(
    "--since",
    metavar="WHEN",
    help="Events from this instant or position on; `last`: add to a .duckdb what came since.",
)
@click.option("--until", metavar="WHEN", help="Events before this instant or position.")
@click.option("--user", "users", multiple=True, help="Only jobs of this owner; repeatable.")
@click.option("--job-type", "job_types", multiple=True, help="Only this type; repeatable.")
@click.option("--bulk-id", "bulk_ids", multiple=True, help="Only this bulk; repeatable.")
@click.option("--job", "job_ids", multiple=True, help="Only this job; repeatable.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(s) for s in STATES]),
    help="Only jobs that end up in this state; repeatable.",
)
@click.option("--tag", "tags", multiple=True, metavar="KEY:VALUE", help="Only with this tag.")
@click.option("--limit", type=click.IntRange(1), help="How many rows; on a terminal 50, else all.")
@click.option("--max-rate", type=click.FloatRange(min=1), help="Records read a second at most.")
@click.option("--json", "as_json", is_flag=True, help="JSON, also on a terminal.")
@archive_option
@log_options
def replay(
    to: Path | None,
    state_at: str | None,
    of_transitions: bool,
    since: str | None,
    until: str | None,
    tags: tuple[str, ...],
    limit: int | None,
    max_rate: float | None,
    as_json: bool,
    archive: str | None,
    bootstrap_servers: str | None,
    data_dir: Path | None,
    **chosen: tuple[str, ...],
) -> None:
    """Read the log again: events, or the jobs and transitions that they make.

    An instant is ISO 8601, a position is what every command and answer calls one, as 0:10,1:7.
    """
    if any(":" not in tag for tag in tags):
        raise click.BadParameter("expected KEY:VALUE", param_hint="--tag")
    what = "jobs" if state_at else "transitions" if of_transitions else "events"
    if state_at and of_transitions:
        raise click.UsageError("--state-at and --transitions ask for different tables.")
    if what != "events" and since:
        raise click.UsageError("--since is for events: a state rests on all that came before.")
    with needed("replay"):
        from jobtrail.replay import Filters, Replay
        from jobtrail.replay.export import DUCKDB, check_ending
    if to is not None and check_ending(to) == DUCKDB and (what != "events" or limit):
        raise click.UsageError("A DuckDB file has all three tables, whole.")
    if since == LAST and (to is None or check_ending(to) != DUCKDB):
        raise click.UsageError("--since last is for a .duckdb file: others are given a position.")
    filters = Filters(**chosen, tags=dict(tag.split(":", 1) for tag in tags))
    with Replay.open(
        bootstrap_servers=bootstrap_servers,
        data_dir=chosen_data_dir(data_dir),
        archive=archive,
        max_rate=max_rate,
    ) as opened:
        position = format_position(opened.ends)
        total = sum(opened.ends[p] - begin for p, begin in opened.begins.items())
        with progress(f"reading {what}", total) as told:
            opened.progress = lambda done, _total: told(done)
            if to is not None and to.suffix.lower() == DUCKDB:
                rows = _to_duckdb(opened, to, filters, since, until)
            else:
                if what == "jobs":
                    at = None if state_at == "now" else state_at
                    batches = opened.state_at(at, filters).batches()
                elif what == "transitions":
                    batches = opened.transitions(until, filters).batches()
                else:
                    batches = opened.event_batches(filters, since=since, until=until)
                rows = _write(what, batches, to, limit, as_json=as_json)
        refused = opened.refused
    if to is not None:
        _report(to, what, rows, position, as_json=as_json)
    if refused:
        click.echo(f"{refused} records of the log are no valid events and were left out", err=True)


def _to_duckdb(
    opened: Replay, to: Path, filters: Filters, since: str | None, until: str | None
) -> int:
    """Write a database, or add to it what came since; return how many events."""
    from jobtrail.replay.export import grow_duckdb, to_duckdb, whole

    if since == LAST:
        if filters or until:
            raise click.UsageError("--since last takes up all that came since.")
        return grow_duckdb(opened, to)
    with whole(to) as draft:
        return to_duckdb(opened, draft, filters, since=since, until=until)


def _write(
    what: str,
    batches: Iterator[pa.RecordBatch],
    to: Path | None,
    limit: int | None,
    *,
    as_json: bool,
) -> int:
    from jobtrail.replay import schemas
    from jobtrail.replay.export import WRITERS, ndjson, whole

    shown = to is None and tabular(as_json)
    if shown and limit is None:
        limit = _ROWS
    if limit is not None:
        batches = _first(batches, limit)
    if to is not None:
        schema, ending = getattr(schemas, what.upper()), to.suffix.lower()
        with whole(to) as draft:
            return WRITERS[ending](schema, batches, draft)
    if shown:
        return _show(what, batches)
    rows = 0
    for batch in batches:
        click.get_binary_stream("stdout").writelines(ndjson(batch))
        rows += len(batch)
    return rows


def _first(batches: Iterator[pa.RecordBatch], limit: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.slice(0, limit)
        limit -= len(batch)
        if limit <= 0:
            return


def _show(what: str, batches: Iterator[pa.RecordBatch]) -> int:
    names = _SHOWN[what]
    table = Shown(*names, box=SIMPLE)
    rows = itertools.chain.from_iterable(batch.select(names).to_pylist() for batch in batches)
    for row in rows:
        table.add_row(*(Text(_text(row[name])) for name in names))
    Console().print(table)
    return table.row_count


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat(sep=" ")[:23] if hasattr(value, "isoformat") else str(value)


def _report(to: Path, what: str, rows: int, position: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps({"file": str(to), "rows": rows, "position": position}))
    else:
        click.echo(f"{rows:,} {what} to {to}, position {position}")
