"""`python -m projections.skip`: go on after a hole in the log, on purpose.

A hole is where acknowledged records are lost for no known reason. Its partition stops until the
records are back or an operator decides that they are gone; that decision is kept in the store.
"""

from __future__ import annotations

import asyncio
import logging

import click
from aiokafka.errors import KafkaError

from jobtrail.core.errors import JobtrailError, UsageError
from jobtrail.files.private import keep_private
from jobtrail.log.kafka import Client
from jobtrail.log.questions import Log
from jobtrail.processes.runtime import set_up_logging
from jobtrail.settings import Settings, load
from jobtrail.terminal.text import complain, out
from projections.sqlite.write.writer import SqliteWriter

logger = logging.getLogger(__name__)


@click.command()
@click.option("--partition", type=click.IntRange(0), required=True)
@click.option("--to", "until", type=click.IntRange(1), required=True)
def main(partition: int, until: int) -> None:
    """Move a partition's checkpoint over a hole."""
    try:
        settings = load()
        keep_private()
        set_up_logging(settings)
        begin = asyncio.run(skip(settings, partition, until))
    except (JobtrailError, KafkaError, TimeoutError) as error:
        complain(error)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None
    out(f"partition {partition} goes on at offset {until}; skipped from offset {begin} on")


async def skip(settings: Settings, partition: int, until: int) -> int:
    """Move a checkpoint over a hole of the log; return where it was.

    Args:
        settings: The log and the store.
        partition: The partition.
        until: The first offset after the hole.

    Raises:
        UsageError: The log has records before that offset: they are folded, not skipped.
        StoreError: The checkpoint is not before it.
    """
    client = Client(settings)
    writer = SqliteWriter(settings.store_folder)
    try:
        checkpoint = writer.checkpoints().get(partition)
        if checkpoint is not None and checkpoint.next_offset < until:
            async with Log(settings.topic, client) as log:
                there = await log.accounted_from(partition, checkpoint.next_offset)
            if there < until:
                raise UsageError(
                    "That is no hole: the log has records there.",
                    where=f"partition {partition}",
                    expected=f"an offset up to {there}",
                    found=f"{until}",
                )
        begin = writer.skip(partition, until)
    finally:
        writer.close()
    logger.warning("action=hole_skipped partition=%d begin=%d until=%d", partition, begin, until)
    return begin


if __name__ == "__main__":
    main()
