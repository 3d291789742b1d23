"""`jobtrail bridge`: jobs of another system as events in the log, continuously."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from jobtrail.cli.common import log_options, log_settings
from jobtrail.core.errors import UsageError
from jobtrail.core.position import format_position
from jobtrail.files.private import keep_private
from jobtrail.processes.runtime import set_up_logging
from jobtrail.settings import load
from jobtrail.terminal.tables import progress_console
from jobtrail.terminal.text import out, out_json

if TYPE_CHECKING:
    from jobtrail.integrations.pgboss.bridge import Bridge
    from jobtrail.integrations.pgboss.session import Figures

logger = logging.getLogger(__name__)

#: Seconds between two lines of progress in a log, and on a terminal.
_LOG_EVERY: Final = 60.0
_SHOW_EVERY: Final = 0.5


@click.group()
def bridge() -> None:
    """Follow another job system; duplicates change nothing."""


@bridge.command(name="pg-boss")
@click.option("--dsn", required=True, help="The database: postgresql://USER@HOST:PORT/DATABASE.")
@click.option("--schema", default="pgboss", show_default=True, help="pg-boss's schema.")
@click.option(
    "--owner", default="pg-boss", show_default=True, help="Owner of jobs whose data names none."
)
@click.option("--owner-path", help="Where a job's data names its owner, as data.userId.")
@click.option("--bulk-path", help="Where a job's data names its bulk, as data.batchId.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="The least seconds between two readings.",
)
@click.option("--once", is_flag=True, help="End once everything that existed at the start is sent.")
@click.option("--again", is_flag=True, help="Read everything again, not from the checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@log_options
def pg_boss(
    dsn: str,
    schema: str,
    owner: str,
    owner_path: str | None,
    bulk_path: str | None,
    every: float,
    once: bool,
    again: bool,
    as_json: bool,
    data_dir: Path | None,
    bootstrap_servers: str | None,
) -> None:
    """Bridge the jobs of pg-boss 9 to 12: all existing ones, then every change, until stopped.

    It only reads the database. A restart continues from the checkpoint. See docs/pg-boss.md.
    """
    from jobtrail.integrations.pgboss.bridge import Bridge, BridgeOptions

    wanted = BridgeOptions(
        dsn=dsn,
        log=load(bootstrap_servers=bootstrap_servers).bootstrap_servers,
        schema=schema,
        owner=owner,
        owner_path=_keys("--owner-path", owner_path),
        bulk_path=_keys("--bulk-path", bulk_path),
        every=every,
        once=once,
        again=again,
    )
    settings = log_settings(data_dir, bootstrap_servers)
    keep_private()
    set_up_logging(settings)
    made = Bridge(settings, wanted)
    asyncio.run(_run(made))
    figures = made.figures
    position = format_position(figures.position)
    if as_json:
        outcome = {
            "acknowledged": figures.acknowledged,
            "read": figures.read,
            "refused": figures.refused,
            "outputsLeftOut": figures.left_out,
            "position": position or None,
        }
        out_json(msgspec.json.encode(outcome))
    else:
        at = f", position {position}" if position else ""
        out(f"{figures.acknowledged} events acknowledged{at}")


def _keys(option: str, path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    first, *keys = path.split(".")
    if first != "data" or not keys or not all(keys):
        raise UsageError(
            "This is no path into a job's data.",
            where=option,
            expected="data.KEY or data.KEY.KEY",
            found=path,
        )
    return tuple(keys)


async def _run(made: Bridge) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with _shown(made.figures):
        await made.run(stop)


@contextlib.asynccontextmanager
async def _shown(figures: Figures) -> AsyncIterator[None]:
    """Show progress: continuously on a terminal, else as a line a minute in the log."""
    showing = asyncio.create_task(_show(figures) if sys.stderr.isatty() else _log(figures))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _show(figures: Figures) -> None:
    with progress_console().status("") as status:
        while True:
            status.update(_said(figures))
            await asyncio.sleep(_SHOW_EVERY)


async def _log(figures: Figures) -> None:
    while True:
        await asyncio.sleep(_LOG_EVERY)
        logger.info("action=bridge_runs %s", _said(figures))


def _said(figures: Figures) -> str:
    lag = "reading all"
    if figures.current_at is not None:
        lag = f"{asyncio.get_running_loop().time() - figures.current_at:.1f} s behind"
    line = f"{figures.read:,} rows read, {figures.acknowledged:,} events acknowledged, {lag}"
    if figures.refused:
        line += f", {figures.refused:,} rows refused"
    if figures.left_out:
        line += f", {figures.left_out:,} outputs too large"
    return line
