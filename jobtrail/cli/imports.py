"""`jobtrail import`: what happened elsewhere, as events in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click

from jobtrail import google_2011
from jobtrail.cli.common import chosen_data_dir, data_dir_option, progress, report, url_option
from jobtrail.client import Client
from jobtrail.errors import EventError
from jobtrail.events import decode, encode
from jobtrail.local import read_running
from jobtrail.position import format_position
from jobtrail.producer import LogWriter
from jobtrail.settings import Settings, load
from jobtrail.tokens import local_secret, make_token

#: Seconds that the projections may take for a partition: some millions of events.
_PATIENCE: Final = 600.0


@click.group(name="import")
def import_() -> None:
    """Import events from elsewhere; importing again changes nothing."""


@import_.command(name="google-2011")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--wait", is_flag=True, help="Return when the projections hold it.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--bootstrap-servers", help="Another Kafka: host:port[,host:port].")
@url_option
@data_dir_option
def google(
    files: tuple[Path, ...],
    wait: bool,
    as_json: bool,
    bootstrap_servers: str | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Import job event files of the Google cluster trace of 2011, plain or gzipped.

    A row that can't be used is named on standard error and left out; the exit status is then 1.
    """
    settings = load(data_dir=chosen_data_dir(data_dir), bootstrap_servers=bootstrap_servers)
    if not settings.bootstrap_servers or (wait and url is None):
        running = read_running(settings.data_dir)
        url = url or running.url
        if not settings.bootstrap_servers:
            settings = settings.model_copy(update={"bootstrap_servers": running.bootstrap_servers})
    with progress("events acknowledged") as show:
        writer, refused = asyncio.run(_import(settings, files, show))
    if wait and writer.position:
        assert url is not None
        with progress("partitions projected", total=len(writer.position)) as show:
            asyncio.run(_projected(settings, url, writer.position, show))
    report(writer, refused, what="rows", as_json=as_json, held=", projected" if wait else "")


async def _import(
    settings: Settings, files: Sequence[Path], show: Callable[[int], None]
) -> tuple[LogWriter, int]:
    refused = 0
    async with LogWriter(settings) as writer:
        try:
            for row in google_2011.read(files):
                error = row.error
                if row.event is not None:
                    value = encode(row.event)
                    try:
                        decode(value)
                    except EventError as fault:
                        error = str(fault)
                    else:
                        await writer.append(row.event.subject, value)
                        show(writer.acknowledged)
                if error:
                    refused += 1
                    click.echo(f"{row.file}, line {row.line}: {error}", err=True)
        finally:
            await writer.settle()
            show(writer.acknowledged)
    return writer, refused


async def _projected(
    settings: Settings, url: str, position: dict[int, int], show: Callable[[int], None]
) -> None:
    """Wait until reads of the service hold a position, partition by partition.

    A service that is being started anew, or is far behind, is waited for.
    """
    secret = local_secret(settings.data_dir)
    token = make_token(secret, "jobtrail-import", (), ("jobs:read:all",))
    async with Client(url, token, patience=_PATIENCE) as client:
        for done, (partition, offset) in enumerate(sorted(position.items())):
            show(done)
            client.position = format_position({partition: offset})
            async for _job in client.search(page_size=1):
                break
    show(len(position))
