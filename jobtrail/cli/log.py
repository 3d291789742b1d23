"""`jobtrail log`: the log itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import orjson

from jobtrail.cli.common import log_options, log_settings, progress
from jobtrail.core.errors import UsageError
from jobtrail.core.position import format_position
from jobtrail.log.copying import Copied, LogCopy
from jobtrail.settings import Settings
from jobtrail.terminal.text import out, out_json


@click.group()
def log() -> None:
    """Copy the log."""


@log.command()
@click.option("--to-topic", required=True, metavar="NEW", help="The new topic; it is made.")
@click.option("--partitions", type=click.IntRange(1, 1024), required=True, help="How many it gets.")
@click.option("--resume", is_flag=True, help="Continue a copy: after a kill, or with new records.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@log_options
def copy(
    to_topic: str,
    partitions: int,
    resume: bool,
    as_json: bool,
    bootstrap_servers: str | None,
    data_dir: Path | None,
) -> None:
    """Copy the log into a new topic with another number of partitions, each record once.

    docs/broker.md has the other steps, and their order: To grow the log.
    """
    settings = log_settings(data_dir, bootstrap_servers)
    if to_topic in (settings.topic, settings.dead_topic):
        raise UsageError("A log is copied into another topic.", found=f"--to-topic {to_topic}")
    done = asyncio.run(_copied(settings, to_topic, partitions, resume))
    if as_json:
        outcome = {**done._asdict(), "position": format_position(done.position)}
        out_json(orjson.dumps(outcome))
        return
    out(f"{done.records} records copied, up to position {format_position(done.position)}")
    if done.moved:
        out(f"{done.moved} were in another partition than their key's and are events now")
    if done.left_out:
        out(f"{done.left_out} were left out: Kafka does not take them again; they are no events")
    out(
        "Stop all producers, and run this again with --resume until it copies nothing. Then start "
        f"everything with JOBTRAIL_TOPIC={to_topic} JOBTRAIL_PARTITIONS={partitions}, and another "
        "JOBTRAIL_GROUP, JOBTRAIL_DEAD_TOPIC and JOBTRAIL_STORE."
    )


async def _copied(settings: Settings, to_topic: str, partitions: int, resume: bool) -> Copied:
    async with LogCopy(settings, to_topic, partitions, resume=resume) as copying:
        with progress("offsets copied", total=copying.total) as show:
            return await copying.run(show)
