"""`jobtrail emit`: NDJSON events to the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final

import click

from jobtrail.cli.common import log_options, log_settings, progress, report
from jobtrail.core.errors import EventError
from jobtrail.core.events import MAX_EVENT_BYTES, decode
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from jobtrail.terminal.text import err

_CHUNK: int = 256 * 1024
#: JSON's white space: `strip` alone would remove more, which no other entry point accepts.
_BLANK: Final = b" \t\r\n"


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@log_options
def emit(
    file: BinaryIO, as_json: bool, data_dir: Path | None, bootstrap_servers: str | None
) -> None:
    """Append the events of FILE, one CloudEvent in JSON a line, to the log.

    Prints how many were acknowledged and the position after them. A line that is no valid event is
    reported on standard error and left out, and the exit status is 1.
    """
    settings = log_settings(data_dir, bootstrap_servers)
    with progress("events acknowledged") as show:
        writer, refused = asyncio.run(_emit(settings, file, show))
    report(writer, refused, what="lines", as_json=as_json)


async def _emit(
    settings: Settings, file: BinaryIO, show: Callable[[int], None]
) -> tuple[LogWriter, int]:
    refused = 0
    async with LogWriter(settings) as writer:
        try:
            async for number, line in _lines(file):
                try:
                    event = decode(line)
                except EventError as error:
                    refused += 1
                    err(f"line {number}: {error}")
                    continue
                await writer.append(event.subject, line)
                show(writer.acknowledged)
        finally:
            await writer.settle()
            show(writer.acknowledged)
    return writer, refused


async def _lines(file: BinaryIO) -> AsyncIterator[tuple[int, bytes]]:
    """Number the lines that are not blank, as they come; only the allowed length is kept."""
    loop = asyncio.get_running_loop()
    read = getattr(file, "read1", file.read)
    number, rest, cut = 0, b"", False
    while chunk := await loop.run_in_executor(None, read, _CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            # Only the first part of an overlong line is kept: it is refused as too large.
            if line.strip(_BLANK) or cut:
                yield number, b" " * (MAX_EVENT_BYTES + 1) if cut else line.strip(_BLANK)
            cut = False
        if len(rest) > MAX_EVENT_BYTES:
            rest, cut = b"", True
    if rest.strip(_BLANK) or cut:
        yield number + 1, b" " * (MAX_EVENT_BYTES + 1) if cut else rest.strip(_BLANK)
