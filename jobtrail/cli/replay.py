"""`jobtrail replay`: the log, or the jobs at an instant, to a file or a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import orjson

from jobtrail.cli.common import (
    ROWS,
    archive_option,
    holes_option,
    log_options,
    prepare_to_read,
    raw_option,
    tabular,
    tags_of,
)
from jobtrail.cli.following import follow as follow_log
from jobtrail.cli.following import grow
from jobtrail.cli.reading import reading
from jobtrail.core.position import format_position
from jobtrail.core.states import STATES
from jobtrail.terminal.tables import Grid, Screen
from jobtrail.terminal.text import err, out, out_json, out_json_lines

if TYPE_CHECKING:
    import pyarrow as pa

    from jobtrail.replay import Filters, Replay


#: As `--since`: where the last export to this file ended.
LAST: Final = "last"
#: As `--state-at`: the log's end.
_NOW: Final = "now"
_SHOWN: Final = {
    "events": ("partition", "offset", "time", "type", "job_id", "attempt"),
    "jobs": ("id", "job_type", "state", "owner", "created_at", "ended_at", "attempt"),
    "transitions": ("job_id", "time", "from_state", "to_state", "attempt", "seconds"),
}


class _Asked(NamedTuple):
    """The command's options, except for the log and the filters."""

    what: str
    to: Path | None = None
    state_at: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int | None = None
    by_day: bool = False
    as_json: bool = False
    follow: bool = False
    raw: bool = False

    @property
    def ending(self) -> str:
        """The file's suffix, which decides the format; empty without a file."""
        return "" if self.to is None else self.to.suffix.lower()

    @property
    def begin(self) -> str | None:
        """The value of `--since`, except `last`."""
        return None if self.since == LAST else self.since


@click.command()
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="The file: .ndjson, .csv, .parquet, or .duckdb with events, jobs and transitions.",
)
@click.option(
    "--state-at", metavar="WHEN", help="The jobs as they were: an instant, a position, or `now`."
)
@click.option("--transitions", "of_transitions", is_flag=True, help="Every change of a state.")
@click.option(
    "--since",
    metavar="WHEN",
    help="Events from this instant or position on; `last`: add the events since to the export.",
)
@click.option(
    "--until",
    metavar="WHEN",
    help="Events before this instant or position; a date is the last day.",
)
@click.option("--user", "users", multiple=True, help="Only jobs of this owner; repeatable.")
@click.option("--job-type", "job_types", multiple=True, help="Only this type; repeatable.")
@click.option("--bulk-id", "bulk_ids", multiple=True, help="Only this bulk; repeatable.")
@click.option("--job", "job_ids", multiple=True, help="Only this job; repeatable.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(s) for s in STATES]),
    help="Only jobs in this state at the end; repeatable.",
)
@click.option("--tag", "tags", multiple=True, metavar="KEY:VALUE", help="Only with this tag.")
@click.option("--limit", type=click.IntRange(1), help="How many rows; on a terminal 50, else all.")
@click.option("--by-day", is_flag=True, help="Parquet in a folder, a day in a folder of its own.")
@raw_option
@click.option(
    "--follow", is_flag=True, help="Continue with new events, until Ctrl-C; also into a file."
)
@click.option("--max-rate", type=click.FloatRange(min=1), help="Records read a second at most.")
@click.option("--json", "as_json", is_flag=True, help="JSON, also on a terminal.")
@archive_option
@holes_option
@log_options
def replay(
    to: Path | None,
    state_at: str | None,
    of_transitions: bool,
    since: str | None,
    until: str | None,
    tags: tuple[str, ...],
    limit: int | None,
    by_day: bool,
    raw: bool,
    follow: bool,
    max_rate: float | None,
    as_json: bool,
    archive: str | None,
    skip_holes: bool,
    bootstrap_servers: str | None,
    data_dir: Path | None,
    **chosen: tuple[str, ...],
) -> None:
    """Read the log again: events, or the jobs and transitions that they make.

    An instant is ISO 8601, a position has the form 0:10,1:7.
    """
    what = "jobs" if state_at else "transitions" if of_transitions else "events"
    if state_at and of_transitions:
        raise click.UsageError("--state-at and --transitions ask for different tables.")
    asked = _Asked(what, to, state_at, since, until, limit, by_day, as_json, follow, raw)
    prepare_to_read()
    from jobtrail.replay import Filters

    filters = Filters(**chosen, tags=tags_of(tags))
    _check(asked)
    _check_growing(asked)
    with reading(
        what,
        bootstrap_servers=bootstrap_servers,
        data_dir=data_dir,
        archive=archive,
        max_rate=max_rate,
        skip_holes=skip_holes,
        shown=not follow,
    ) as opened:
        if follow and to is None:
            follow_log(opened, since, filters)
            return
        rows = _read(opened, asked, filters)
        position = _position(opened, asked)
    if to is not None and not follow:
        _report(to, what, rows, position, as_json=as_json)
    if opened.refused:
        err(f"{opened.refused} records of the log are no valid events and were left out")


def _check(asked: _Asked) -> None:
    """Check that the options go together.

    Raises:
        UsageError: It does not.
    """
    from jobtrail.replay.export.export import CSV, DUCKDB, PARQUET, check_ending

    if asked.to is not None:
        check_ending(asked.to)
    if asked.state_at and asked.until:
        raise click.UsageError("--state-at has the end of the range already.")
    if asked.what != "events" and asked.since:
        raise click.UsageError("--since is for events: a state rests on all that came before.")
    if asked.ending == DUCKDB and (asked.what != "events" or asked.limit):
        raise click.UsageError("A DuckDB file has all three tables, complete.")
    if asked.raw and asked.ending != CSV:
        raise click.UsageError("--raw is about cells of CSV: give --to a name in .csv.")
    if asked.by_day and asked.ending != PARQUET:
        raise click.UsageError("--by-day makes a folder: give --to a name in .parquet.")


def _check_growing(asked: _Asked) -> None:
    """Check the options of an export that grows.

    Raises:
        UsageError: It does not.
    """
    from jobtrail.replay.export.export import DUCKDB

    last = asked.since == LAST
    if not (asked.follow or last):
        if asked.to is not None and (asked.to.is_dir() or (asked.by_day and asked.to.exists())):
            raise click.UsageError("A folder is made once, or grows: give --to a new name.")
        return
    if last and asked.to is None:
        raise click.UsageError("--since last continues an export: name it with --to.")
    if asked.what != "events" or asked.until or asked.limit:
        raise click.UsageError("--since last and --follow take all events since.")
    if asked.follow and asked.ending == DUCKDB:
        raise click.UsageError(
            "No process can read a DuckDB file while another one has it open: let --since last "
            "add to it, as often as you like."
        )


def _read(opened: Replay, asked: _Asked, filters: Filters) -> int:
    """Write or print the result; return the number of rows."""
    from jobtrail.replay.export.export import DUCKDB

    if asked.to is not None and asked.ending == DUCKDB:
        return _to_duckdb(opened, asked.to, filters, asked)
    if asked.to is not None and (asked.follow or asked.since == LAST):
        return grow(
            opened, asked.to, filters, asked.begin,
            by_day=asked.by_day, raw=asked.raw, keep_on=asked.follow,
        )  # fmt: skip
    if asked.what == "jobs":
        at = None if asked.state_at == _NOW else asked.state_at
        batches = opened.state_at(at, filters).batches()
    elif asked.what == "transitions":
        batches = opened.transitions(asked.until, filters).batches()
    else:
        batches = opened.event_batches(filters, since=asked.since, until=asked.until)
    return _write(asked, batches)


def _position(opened: Replay, asked: _Asked) -> str | None:
    """Return where the read ended; None where it can't be continued."""
    from jobtrail.replay.replay import instant_of

    if asked.limit is not None or instant_of(asked.until) is not None:
        return None
    until = asked.until if asked.state_at in (None, _NOW) else asked.state_at
    return format_position(opened.end_of(until))


def _to_duckdb(opened: Replay, to: Path, filters: Filters, asked: _Asked) -> int:
    """Write a database, or add the events since; return their number."""
    from jobtrail.replay.export.export import grow_duckdb, to_duckdb
    from jobtrail.replay.export.files import whole

    if asked.since == LAST:
        if filters:
            raise click.UsageError("--since last adds all events since to a DuckDB file.")
        if to.exists():
            return grow_duckdb(opened, to)
    with whole(to) as draft:
        return to_duckdb(opened, draft, filters, since=asked.begin, until=asked.until)


def _write(asked: _Asked, batches: Iterator[pa.RecordBatch]) -> int:
    from jobtrail.replay import schemas
    from jobtrail.replay.export.export import WRITERS, Writer, ndjson, to_csv, to_parquet_by_day
    from jobtrail.replay.export.files import whole

    to, limit = asked.to, asked.limit
    shown = to is None and tabular(asked.as_json)
    if shown and limit is None:
        limit = ROWS
    if limit is not None:
        batches = _first(batches, limit)
    if to is not None:
        write: Writer = to_parquet_by_day if asked.by_day else WRITERS[asked.ending]
        if asked.raw:
            write = partial(to_csv, raw=True)
        with whole(to) as draft:
            return write(getattr(schemas, asked.what.upper()), batches, draft)
    if shown:
        return _show(asked.what, batches)
    rows = 0
    for batch in batches:
        out_json_lines(ndjson(batch))
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
    grid, shown = Grid(*names), 0
    rows = itertools.chain.from_iterable(batch.select(names).to_pylist() for batch in batches)
    for row in rows:
        grid.add(*(_text(row[name]) for name in names))
        shown += 1
    Screen().show(grid)
    return shown


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat(sep=" ")[:23] if hasattr(value, "isoformat") else str(value)


def _report(to: Path, what: str, rows: int, position: str | None, *, as_json: bool) -> None:
    if as_json:
        out_json(orjson.dumps({"file": str(to), "rows": rows, "position": position}))
    else:
        at = "" if position is None else f", position {position}"
        out(f"{rows:,} {what} to {to}{at}")
