"""`jobtrail import`: events from files of other systems."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar, Unpack

import click
import orjson
import uvloop

from jobtrail.cli.common import chosen_data_dir, data_dir_option, progress, report, url_option
from jobtrail.cli.proof import Asked, token_options, whom_to_ask
from jobtrail.client import Client
from jobtrail.core.position import format_position
from jobtrail.importing import google_2011
from jobtrail.importing.checkpoint import identify
from jobtrail.importing.mapping import read_mapping
from jobtrail.importing.rejects import Rejects
from jobtrail.importing.running import Source, Tally, preview, rejects_of, tasks, write
from jobtrail.importing.tables import read
from jobtrail.local.running import read_running, with_log_of
from jobtrail.settings import load
from jobtrail.terminal.text import err, out, out_json

#: Timeout in seconds for a partition's projections: some millions of events.
_PATIENCE: Final = 600.0
_F = TypeVar("_F", bound=Callable[..., Any])
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Options(TypedDict):
    """The options of every import."""

    dry_run: bool
    rejects: Path | None
    restart: bool
    wait: bool
    as_json: bool
    bootstrap_servers: str | None
    token: str | None
    token_file: Path | None
    url: str | None
    data_dir: Path | None


def _import_options(command: _F) -> _F:
    """Add the options of every import."""
    options = (
        click.argument("files", nargs=-1, required=True, type=_FILE),
        click.option("--dry-run", is_flag=True, help="Send nothing; show what would be sent."),
        click.option(
            "--rejects",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write every rejected row to this file, as JSON a line.",
        ),
        click.option("--anew", "restart", is_flag=True, help="Restart an interrupted import."),
        click.option("--wait", is_flag=True, help="Return once the projections have it."),
        click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
        click.option("--bootstrap-servers", help="Another Kafka: host:port[,host:port]."),
        token_options,
        url_option,
        data_dir_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(name="import")
def import_() -> None:
    """Import events from elsewhere; importing again changes nothing.

    A row that can't be used is reported on standard error and left out; the exit status is then 1.
    An interrupted import continues where it was.
    """


@import_.command(name="google-2011")
@_import_options
def google(files: tuple[Path, ...], **options: Unpack[_Options]) -> None:
    """Import job event files of the Google cluster trace of 2011, plain or compressed."""
    _import(google_2011.sources(files), options)


def _mapped(kind: str, what: str, unit: str = "line") -> None:
    """Make the command that imports one file format by a mapping."""

    @import_.command(name=kind, help=f"Import {what} by a mapping; docs/importing.md shows how.")
    @click.option("--map", "mapping", required=True, type=_FILE, help="The mapping, in TOML.")
    @_import_options
    def command(files: tuple[Path, ...], mapping: Path, **options: Unpack[_Options]) -> None:
        rules = read_mapping(mapping)
        found = [
            Source(file, identify(file, rules.fingerprint), partial(read, kind, file, rules))
            for file in files
        ]
        # A file that does not match is refused before anything is sent.
        for source in found:
            next(source.rows(0), None)
        _import(found, options, unit, counts=True)


_mapped("csv", "CSV files, plain, gzipped or zstd,")
_mapped("ndjson", "files of one JSON object a line, plain, gzipped or zstd,")
_mapped("parquet", "Parquet files", unit="row")


def _import(
    sources: Sequence[Source], options: _Options, unit: str = "line", counts: bool = False
) -> None:
    """Run an import.

    Args:
        sources: The files.
        options: Of the command line.
        unit: The name of a row, for messages.
        counts: Whether the outcome has the number of rows.
    """
    if options["dry_run"]:
        _dry_run(sources, options, unit)
        return
    url, wait = options["url"], options["wait"]
    data_dir = chosen_data_dir(options["data_dir"])
    settings = load(data_dir=data_dir, bootstrap_servers=options["bootstrap_servers"])
    # The local Kafka's port may change; the data folder identifies it.
    log = settings.bootstrap_servers
    if not settings.bootstrap_servers or (wait and url is None):
        running = read_running(settings.data_dir)
        url = url or running.url
        if not settings.bootstrap_servers:
            settings = with_log_of(settings, running)
    asked = None
    if wait:
        asked = whom_to_ask(
            settings, url, options["token"], options["token_file"], "jobtrail-import"
        )
    todo = tasks(settings, sources, log, restart=options["restart"])
    with (
        rejects_of(todo, options["rejects"], unit) as rejects,
        progress("events acknowledged") as show,
    ):
        writer, tally = uvloop.run(write(settings, todo, rejects, show))
    if wait and writer.position:
        assert asked is not None
        with progress("partitions projected", total=len(writer.position)) as show:
            asyncio.run(_projected(asked, writer.position, show))
    if counts and tally.without_event:
        err(f"{tally.without_event} rows without an event")
    before = sum(task.done.rows for task in todo if task.done is not None)
    report(
        writer,
        rejects.before + rejects.count,
        what="rows",
        as_json=options["as_json"],
        note=", projected" if wait else "",
        more={"rows": tally.rows, "rowsBefore": before, "withoutEvent": tally.without_event}
        if counts
        else {},
    )


def _dry_run(sources: Sequence[Source], options: _Options, unit: str) -> None:
    """Print what an import would send; exit with status 1 where it would refuse rows."""
    with Rejects(options["rejects"], unit) as rejects, progress("rows read") as show:
        tally = preview(sources, rejects, show)
    if options["as_json"]:
        out_json(orjson.dumps(_outcome(tally, rejects.count)))
    else:
        for name, count in sorted(tally.types.items()):
            out(f"{count} {name}")
        out(f"{tally.types.total()} events of {tally.rows} rows, nothing sent")
        for made in tally.first:
            out_json(made.value)
    if tally.without_event:
        err(f"{tally.without_event} rows without an event")
    if rejects.count:
        err(f"{rejects.count} rows refused")
        sys.exit(1)


def _outcome(tally: Tally, refused: int) -> dict[str, object]:
    return {
        "events": dict(sorted(tally.types.items())),
        "rows": tally.rows,
        "withoutEvent": tally.without_event,
        "refused": refused,
        "first": [orjson.Fragment(made.value) for made in tally.first],
    }


async def _projected(asked: Asked, position: dict[int, int], show: Callable[[int], None]) -> None:
    """Wait until the service's reads have reached a position, partition by partition.

    A service that restarts, or lags far, is waited for.
    """
    async with Client(*asked, patience=_PATIENCE) as client:
        for done, (partition, offset) in enumerate(sorted(position.items())):
            show(done)
            client.position = format_position({partition: offset})
            async for _job in client.search(page_size=1):
                break
    show(len(position))
