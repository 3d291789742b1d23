"""The projector process: `python -m projections --name projector-0`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
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
from jobtrail.processes.stopping import end_now, end_within, stop_on_signals
from jobtrail.settings import Settings, load
from jobtrail.terminal.text import out
from projections.projector.app import build_app
from projections.projector.continuity import check_partitions
from projections.projector.dead_letters import DeadLetters
from projections.projector.health import Health
from projections.projector.health_server import serving_health
from projections.projector.membership import remove_members
from projections.projector.projector import Projector
from projections.projector.vitals import MeteredWriter, Vitals
from projections.projector.watchdog import care, watch
from projections.projector.written_over import partitions_written_over
from projections.sqlite.files import schema
from projections.sqlite.files.shard_files import ensure

logger = logging.getLogger(__name__)

#: Seconds for the group that is being applied when the process is told to stop.
_FINISH_WITHIN: Final = 10.0
#: Seconds for all that comes after it. A worker that does not stop by itself (faust #162, #324) is
#: ended: that is always safe.
_STOP_WITHIN: Final = 5.0
#: Seconds after which a projector without partitions joins the group again.
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
        # There is hardly any cyclic garbage, and a pass over all cached jobs costs a tenth.
        gc.freeze()
        gc.set_threshold(1_000_000, 20, 50)
        uvloop.install()
        status = asyncio.run(_run(settings, name, gone, with_parent))
    except JobtrailError as error:
        logger.critical("action=projector_failed %s", error)
        status = 1
    except (KafkaError, TimeoutError) as error:
        # The broker stopped while this process was starting: the next start waits for it.
        logger.critical("action=projector_failed The log can't be reached: %r", error)
        status = 1
    end_now(status)


async def _run(settings: Settings, name: str, gone: tuple[str, ...], with_parent: bool) -> int:
    """Run until a signal; return the exit status, 1 where it has to be started again."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    if with_parent:
        end_with_parent(stop)
    vitals = Vitals(settings.stalled_after)
    # From now on, since without a broker starting may take as long as stopping.
    stopped = asyncio.create_task(stop.wait())
    stopped.add_done_callback(lambda _: _drain(vitals))
    # The watchdog ends the process at its bound: who asks is to hear of it before.
    health = Health(vitals, min(settings.ready_stalled_after, settings.stalled_after / 2))
    async with serving_health(health, settings.health_host, settings.health_port):
        return await _fold(settings, name, gone, stop, vitals)


def _drain(vitals: Vitals) -> None:
    """Say that the process is to end, and end it where it does not by itself."""
    vitals.draining.set()
    end_within(_FINISH_WITHIN + _STOP_WITHIN, 0)


async def _fold(
    settings: Settings, name: str, gone: tuple[str, ...], stop: asyncio.Event, vitals: Vitals
) -> int:
    client = Client(settings)
    log = Log(settings.topic, client)
    if not await _connected(log, stop):
        return 0
    vitals.log_answers = True
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(log)
        await _ensure_store(settings, log)
        writer = MeteredWriter(settings.store_folder, vitals)
        letters = DeadLetters(settings)
        projector = Projector(writer, log, log.partitions, letters.write_dead_letters)
        await projector.look(range(log.partitions))
        await remove_members(client, settings.group, gone)
        app = build_app(settings, projector, name)
        await app.start()

        def assigned() -> set[int]:
            return {tp.partition for tp in app.consumer.assignment()}

        vitals.assigned, vitals.stopped = assigned, lambda: projector.stopped
        vitals.rebalances = lambda: app.rebalancing_count
        fetch_again = app.consumer.fetch_again
        ready = asyncio.create_task(_say_ready(projector))
        checking = asyncio.create_task(report(settings))
        joining = asyncio.create_task(_join_again(assigned, client, settings.group, name))
        stopped = asyncio.create_task(stop.wait())
        ends: list[asyncio.Task[str]] = [
            asyncio.create_task(_crashed(app)),
            asyncio.create_task(projector.keep_writing(fetch_again)),
            asyncio.create_task(care(projector, assigned, fetch_again)),
            asyncio.create_task(watch(log, projector, assigned, vitals)),
        ]
        try:
            await asyncio.wait({stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                joining.cancel()
                if not await _finish(projector):
                    # A stack that hangs is not waited for. Others take over at once all the same.
                    await remove_members(client, settings.group, (name,))
                    end_now(0)
                return 0
            # Before anything else is asked of a stack that may hang.
            end_within(_STOP_WITHIN, 1)
            logger.critical("action=projector_stalled %s", _reason(ends))
            return 1
        finally:
            for task in (ready, joining, checking, stopped, *ends):
                task.cancel()
            # What stops can't be asked any more.
            vitals.assigned = set
            await app.stop()
            await remove_members(client, settings.group, (name,))
            await letters.close()
            projector.close()


async def _finish(projector: Projector) -> bool:
    """Let the group that is being applied be the last one, and write it; return whether it ended.

    Where that takes too long, as without the log or the store, it is folded again by another one.
    """
    try:
        async with asyncio.timeout(_FINISH_WITHIN):
            await projector.finish()
    except TimeoutError:
        logger.warning("action=group_not_finished it is folded again")
        return False
    except (JobtrailError, KafkaError) as error:
        logger.warning("action=group_not_written it is folded again: %r", error)
    # Without a broker Faust's stop may never return, and it swallows a cancellation.
    end_within(_STOP_WITHIN, 0)
    return True


async def _join_again(
    assigned: Callable[[], set[int]], client: dict[str, Any], group: str, name: str
) -> None:
    """Join as a new member whenever nothing has been assigned for a while. Never returns.

    A static member gets its former partitions back at once, without a rebalance, so that a kill is
    made up for in seconds. But it may have had none, such as while the topic was missing; and
    without a rebalance nothing is ever assigned again. A surplus member, for which there is no
    partition, joins again less and less often.
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
    """Wait for the log; return False if the process is to end first.

    A process that ended because of a missing broker would be started again later and later.
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
    """Return why the first of some tasks has ended; an unexpected error is logged."""
    (task, *_) = [task for task in ends if task.done()]
    error = task.exception()
    if error is None:
        return task.result()
    logger.critical("action=projector_failed", exc_info=error)
    return repr(error)


async def _ensure_store(settings: Settings, log: Log) -> None:
    """Make the store if there is none, and replace its shards that can't be used.

    Raises:
        LogChanged: Log, store and settings have different numbers of partitions.
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
