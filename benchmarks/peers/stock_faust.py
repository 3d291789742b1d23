"""What the peers on stock Faust share: the app, and measuring from its first event to its last.

Their own app, Faust's stock transport and its Cython parts, one event at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import faust
import msgspec
import uvloop
from yarl import URL

from benchmarks.usage import read, taken
from jobtrail.processes.runtime import end_with_parent
from jobtrail.settings import Settings, load


def make_app(settings: Settings, store: str) -> faust.App:
    """Make an app; the settings that it shares with a projector are the projector's.

    Args:
        settings: The log, and the name of the group.
        store: Where tables are kept, such as `rocksdb://`.
    """
    return faust.App(
        settings.group,
        broker=[URL(f"kafka://{server}") for server in settings.bootstrap_servers.split(",")],
        store=store,
        datadir=str(settings.data_dir / "faust"),
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        web_enabled=False,
        autodiscover=False,
    )


def job_events(app: faust.App, settings: Settings) -> Any:
    """Return the log as a topic of an app."""
    return app.topic(
        settings.topic,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )


class Tally:
    """Counts events, and says what they took.

    Args:
        events: After how many.
    """

    def __init__(self, events: int) -> None:
        self._events = events
        self._seen = 0

    def one(self) -> None:
        """Count an event that is done."""
        self._seen += 1
        if self._seen == 1:
            self._began, self._before = time.perf_counter(), read(os.getpid())
        elif self._seen == self._events:
            seconds = time.perf_counter() - self._began
            found = {"seconds": seconds, **taken(self._before, read(os.getpid()), seconds)}
            print("ready", msgspec.json.encode(found).decode(), flush=True)


async def _run(build: Callable[[Settings, Tally], faust.App], events: int) -> None:
    stop = asyncio.Event()
    end_with_parent(stop)
    await build(load(), Tally(events)).start()
    await stop.wait()
    # Faust takes its time to stop, and nobody waits for it.
    os._exit(0)


def main(build: Callable[[Settings, Tally], faust.App], told: str | None) -> None:
    """Run an app until standard input ends.

    Args:
        build: Makes the app.
        told: What it is, for `--help`.
    """
    parser = argparse.ArgumentParser(description=told)
    parser.add_argument("--events", type=int, required=True)
    events = parser.parse_args().events
    uvloop.install()
    asyncio.run(_run(build, events))
