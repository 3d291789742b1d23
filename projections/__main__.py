"""The projector process: `python -m projections --name projector-0`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from typing import Final

import click
import uvloop

from jobtrail.errors import JobtrailError
from jobtrail.process import end_with_parent, set_up_logging
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
_STOP_WITHIN: Final = 15.0


@click.command()
@click.option("--name", default="projector-0", show_default=True, help="Stable name in the group.")
@click.option("--with-parent", is_flag=True, help="End when standard input ends.")
def main(name: str, with_parent: bool) -> None:
    """Fold the log into the projection store until told to stop."""
    try:
        settings = load()
        set_up_logging(settings)
        # Hardly anything here is cyclic garbage, and looking through all held jobs costs a tenth.
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        uvloop.install()
        reason = asyncio.run(_run(settings, name, with_parent))
    except JobtrailError as error:
        logger.critical("action=projector_failed %s", error)
        sys.exit(1)
    if reason:
        logger.critical("action=projector_stalled %s", reason)
        _end(1)
    _end(0)


def _end(status: int) -> None:
    """End at once: threads of Faust or aiokafka may still hang."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


async def _run(settings: Settings, name: str, with_parent: bool) -> str | None:
    """Run until a signal; return why the process has to be started anew, if it has to."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if with_parent:
        end_with_parent(stop)
    async with Log(settings) as log:
        ends = await log.ends()
        schema.create(
            settings.store_folder,
            schema.Layout(schema.SCHEMA_VERSION, settings.shards, log.partitions),
            await log.begins(),
            ends,
        )
        writer = SqliteWriter(settings.store_folder)
        await check(log, writer)
        letters = DeadLetters(settings)
        projector = Projector(writer, log.partitions, letters.bury)
        app = build_app(settings, projector, name)
        await app.start()

        def assigned() -> set[int]:
            return {tp.partition for tp in app.consumer.assignment()}

        try:
            return await _until_over(
                stop,
                asyncio.create_task(_say_ready(projector)),
                asyncio.create_task(_crashed(app)),
                asyncio.create_task(watch(log, projector, assigned, settings.stalled_after)),
            )
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_WITHIN):
                    await app.stop()
                    await letters.close()
            projector.close()


async def _until_over(
    stop: asyncio.Event, ready: asyncio.Task[None], *ends: asyncio.Task[str]
) -> str | None:
    stopped = asyncio.create_task(stop.wait())
    done, pending = await asyncio.wait({stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
    for task in (*pending, ready):
        task.cancel()
    reasons = [task.result() for task in ends if task in done]
    return None if stopped in done else reasons[0]


async def _say_ready(projector: Projector) -> None:
    await projector.assigned.wait()
    print("ready", flush=True)  # noqa: T201
    logger.info("action=ready")


async def _crashed(app: object) -> str:
    await app.wait_until_stopped()  # type: ignore[attr-defined]
    return f"Faust stopped by itself: {getattr(app, 'crash_reason', None)!r}"


if __name__ == "__main__":
    main()
