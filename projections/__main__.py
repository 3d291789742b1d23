"""The projector process: `python -m projections --name projector-0`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import click
import uvloop
from aiokafka.errors import KafkaError

from jobtrail.core.errors import JobtrailError, LogChanged, LogUnavailable, StoreNotReady
from jobtrail.files.private import keep_private
from jobtrail.log.consumers import fetch_groups
from jobtrail.log.kafka import Client
from jobtrail.log.questions import Log
from jobtrail.log.topic_checks import report
from jobtrail.processes.runtime import end_with_parent, set_up_logging
from jobtrail.settings import Settings, load
from jobtrail.terminal.text import out
from projections.projector.app import build_app
from projections.projector.continuity import check_partitions
from projections.projector.dead_letters import DeadLetters
from projections.projector.membership import remove_members
from projections.projector.projector import Projector
from projections.projector.watchdog import care, watch
from projections.projector.written_over import partitions_written_over
from projections.sqlite.files import schema
from projections.sqlite.files.shard_files import ensure
from projections.sqlite.write.writer import SqliteWriter

logger = logging.getLogger(__name__)

#: A worker that does not stop by itself (faust #162, #324) is ended: that is always safe.
_STOP_WITHIN: Final = 5.0
#: Seconds after which a projector that was assigned nothing asks for a share of its own.
_ASSIGNED_WITHIN: Final = 5.0
_LONGEST_PAUSE: Final = 600.0
#: Seconds between two attempts to reach the log.
_LOOK_FOR_LOG_EVERY: Final = 1.0


@click.command()
@click.option("--name", default="projector-0", show_default=True, help="Stable name in the group.")
@click.option("--with-parent", is_flag=True, help="End when standard input ends.")
@click.option(
    "--gone", multiple=True, help="Name of a projector that no longer runs: it leaves the group."
)
def main(name: str, with_parent: bool, gone: tuple[str, ...]) -> None:
    """Fold the log into the projection store until told to stop."""
    try:
        settings = load()
        os.nice(settings.projector_nice)
        keep_private()
        set_up_logging(settings)
        fetch_groups()
        # Hardly anything here is cyclic garbage, and looking through all held jobs costs a tenth.
        gc.freeze()
        gc.set_threshold(1_000_000, 20, 50)
        uvloop.install()
        status = asyncio.run(_run(settings, name, gone, with_parent))
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


async def _run(settings: Settings, name: str, gone: tuple[str, ...], with_parent: bool) -> int:
    """Run until a signal; return the exit status, 1 where it has to be started again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if with_parent:
        end_with_parent(stop)
    # From now on, since without a broker starting may take as long as stopping.
    stopped = asyncio.create_task(stop.wait())
    stopped.add_done_callback(lambda _: _end_within(_STOP_WITHIN, 0))
    client = Client(settings)
    log = Log(settings.topic, client)
    if not await _connected(log, stop):
        return 0
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(log)
        await _ensure_store(settings, log)
        writer = SqliteWriter(settings.store_folder)
        letters = DeadLetters(settings)
        projector = Projector(writer, log, log.partitions, letters.bury)
        await projector.look(range(log.partitions))
        await remove_members(client, settings.group, gone)
        app = build_app(settings, projector, name)
        await app.start()

        def assigned() -> set[int]:
            return {tp.partition for tp in app.consumer.assignment()}

        fetch_again = app.consumer.fetch_again
        ready = asyncio.create_task(_say_ready(projector))
        checking = asyncio.create_task(report(settings))
        joining = asyncio.create_task(_join_again(assigned, client, settings.group, name))
        ends: list[asyncio.Task[str]] = [
            asyncio.create_task(_crashed(app)),
            asyncio.create_task(projector.keep_writing(fetch_again)),
            asyncio.create_task(care(projector, assigned, fetch_again)),
            asyncio.create_task(watch(log, projector, assigned, settings.stalled_after)),
        ]
        try:
            await asyncio.wait({stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return 0
            # Before anything else is asked of a stack that may hang.
            _end_within(_STOP_WITHIN, 1)
            logger.critical("action=projector_stalled %s", _reason(ends))
            return 1
        finally:
            for task in (ready, joining, checking, *ends):
                task.cancel()
            await app.stop()
            await remove_members(client, settings.group, (name,))
            await letters.close()
            projector.close()


async def _join_again(
    assigned: Callable[[], set[int]], client: dict[str, Any], group: str, name: str
) -> None:
    """Join as a new member whenever nothing has been assigned for a while. Never returns.

    Who was a member by this name gets what that one had, at once and without a rebalance: that is
    what makes up for a kill in seconds. But it may have had nothing, such as while the topic was
    away; and where nobody joins or leaves nothing is ever shared out again. A member too many, for
    which there is no partition, asks less and less often.
    """
    pause = _ASSIGNED_WITHIN
    while True:
        await asyncio.sleep(pause)
        if assigned():
            pause = _ASSIGNED_WITHIN
            continue
        logger.info("action=join_again nothing was assigned for %.0f s", pause)
        await remove_members(client, group, (name,))
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _connected(log: Log, stop: asyncio.Event) -> bool:
    """Wait for the log; return whether it is there, and not the process's end came first.

    A process that ended for want of a broker would be started again later and later.
    """
    while not stop.is_set():
        try:
            await log.__aenter__()
            return True
        except LogUnavailable as error:
            logger.warning("action=log_awaited %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_FOR_LOG_EVERY)
    return False


def _reason(ends: list[asyncio.Task[str]]) -> str:
    """Return why the first of some tasks has ended, be it by an error that nobody foresaw."""
    (task, *_) = [task for task in ends if task.done()]
    error = task.exception()
    if error is None:
        return task.result()
    logger.critical("action=projector_failed", exc_info=error)
    return repr(error)


async def _ensure_store(settings: Settings, log: Log) -> None:
    """Make the store where there is none, and each of its shards that can't be used.

    Raises:
        LogChanged: Log, store and settings differ in how many partitions there are.
    """
    folder = settings.store_folder
    begins, ends = await log.begins(), await log.ends()
    try:
        layout = schema.read_layout(folder)
        check_partitions(log.partitions, layout.partitions)
    except StoreNotReady:
        _check_settings(settings, log.partitions)
        over = partitions_written_over(await log.first_records(), log.partitions)
        check_partitions(log.partitions, over)
        layout = schema.create(
            folder,
            schema.Layout(schema.SCHEMA_VERSION, settings.shards, log.partitions),
            begins,
            ends,
        )
    _check_settings(settings, layout.partitions)
    for shard in range(layout.shards):
        mine = [p for p in range(layout.partitions) if p % layout.shards == shard]
        ensure(
            schema.shard_path(folder, shard),
            {p: begins[p] for p in mine},
            {p: ends[p] for p in mine},
        )


def _check_settings(settings: Settings, partitions: int) -> None:
    if settings.partitions != partitions:
        raise LogChanged(
            "The settings name another number of partitions than the log has.",
            expected=f"{settings.partitions}, as JOBTRAIL_PARTITIONS says",
            found=f"{partitions}",
            where=f"topic {settings.topic}",
            hint=f"If it was made with {partitions}, set JOBTRAIL_PARTITIONS={partitions}. If some "
            "were added later, copy it: `jobtrail log copy`, see docs/broker.md.",
        )


async def _say_ready(projector: Projector) -> None:
    await projector.assigned.wait()
    out("ready")
    logger.info("action=ready")


async def _crashed(app: object) -> str:
    await app.wait_until_stopped()  # type: ignore[attr-defined]
    return f"Faust stopped by itself: {getattr(app, 'crash_reason', None)!r}"


if __name__ == "__main__":
    main()
