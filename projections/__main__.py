"""The projector process: `python -m projections --name projector-0`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from typing import Final

import click
import uvloop
from aiokafka.errors import KafkaError

from jobtrail.errors import JobtrailError
from jobtrail.process import end_with_parent, set_up_logging
from jobtrail.records import fetch_groups, read_any_header_name
from jobtrail.settings import Settings, load
from projections.app import build_app
from projections.dead_letters import DeadLetters
from projections.log import Log, check
from projections.projector import Projector
from projections.sqlite import schema
from projections.sqlite.writer import SqliteWriter
from projections.watchdog import watch

logger = logging.getLogger(__name__)

#: A worker that does not stop by itself (faust #162, #324) is ended: that is always safe.
_STOP_WITHIN: Final = 5.0


@click.command()
@click.option("--name", default="projector-0", show_default=True, help="Stable name in the group.")
@click.option("--with-parent", is_flag=True, help="End when standard input ends.")
def main(name: str, with_parent: bool) -> None:
    """Fold the log into the projection store until told to stop."""
    try:
        settings = load()
        set_up_logging(settings)
        read_any_header_name()
        fetch_groups()
        # Hardly anything here is cyclic garbage, and looking through all held jobs costs a tenth.
        gc.freeze()
        gc.set_threshold(1_000_000, 20, 50)
        uvloop.install()
        status = asyncio.run(_run(settings, name, with_parent))
    except JobtrailError as error:
        logger.critical("action=projector_failed %s", error)
        status = 1
    except (KafkaError, TimeoutError) as error:
        # A broker that went away while this process was starting: the next start waits for it.
        logger.critical("action=projector_failed The log can't be reached: %r", error)
        status = 1
    _end(status)


def _end(status: int) -> None:
    """End at once: threads of Faust or aiokafka may still hang."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def _end_within(seconds: float, status: int) -> None:
    """End the process if it has not ended by itself.

    Without a broker Faust's stop may never return, and it swallows a cancellation.
    """
    timer = threading.Timer(seconds, _end, [status])
    timer.daemon = True
    timer.start()


async def _run(settings: Settings, name: str, with_parent: bool) -> int:
    """Run until a signal; return the exit status, 1 where it has to be started anew."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if with_parent:
        end_with_parent(stop)
    # From now on, since without a broker starting may take as long as stopping.
    stopped = asyncio.create_task(stop.wait())
    stopped.add_done_callback(lambda _: _end_within(_STOP_WITHIN, 0))
    async with Log(settings) as log:
        schema.create(
            settings.store_folder,
            schema.Layout(schema.SCHEMA_VERSION, settings.shards, log.partitions),
            await log.begins(),
            await log.ends(),
        )
        writer = SqliteWriter(settings.store_folder)
        await check(log, writer)
        letters = DeadLetters(settings)
        projector = Projector(writer, log.partitions, letters.bury)
        app = build_app(settings, projector, name)
        await app.start()

        def assigned() -> set[int]:
            return {tp.partition for tp in app.consumer.assignment()}

        ready = asyncio.create_task(_say_ready(projector))
        ends: list[asyncio.Task[str]] = [
            asyncio.create_task(_crashed(app)),
            asyncio.create_task(projector.keep_writing(app.consumer.fetch_again)),
            asyncio.create_task(watch(log, projector, assigned, settings.stalled_after)),
        ]
        try:
            await asyncio.wait({stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return 0
            reasons = [task.result() for task in ends if task.done()]
            logger.critical("action=projector_stalled %s", reasons[0])
            _end_within(_STOP_WITHIN, 1)
            return 1
        finally:
            for task in (ready, *ends):
                task.cancel()
            await app.stop()
            await letters.close()
            projector.close()


async def _say_ready(projector: Projector) -> None:
    await projector.assigned.wait()
    print("ready", flush=True)  # noqa: T201
    logger.info("action=ready")


async def _crashed(app: object) -> str:
    await app.wait_until_stopped()  # type: ignore[attr-defined]
    return f"Faust stopped by itself: {getattr(app, 'crash_reason', None)!r}"


if __name__ == "__main__":
    main()
