"""Stock Faust with an agent that does nothing: `python -m benchmarks.peers.faust_noop --events N`.

Its own app, its stock transport and its Cython parts, one event at a time. It says `ready` and
what it measured after so many events, and then waits to be ended.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from typing import Any

import faust
import msgspec
import uvloop
from yarl import URL

from benchmarks.usage import read, taken
from jobtrail.process import end_with_parent
from jobtrail.settings import Settings, load


def build_app(settings: Settings, events: int) -> faust.App:
    """Build the app; the settings that it shares with a projector are the projector's."""
    app = faust.App(
        settings.group,
        broker=[URL(f"kafka://{server}") for server in settings.bootstrap_servers.split(",")],
        store="memory://",
        datadir=str(settings.data_dir / "faust"),
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        web_enabled=False,
        autodiscover=False,
    )
    topic = app.topic(
        settings.topic,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )

    async def do_nothing(stream: Any) -> None:
        seen = 0
        async for _value in stream:
            seen += 1
            if seen == 1:
                began, before = time.perf_counter(), read(os.getpid())
            elif seen == events:
                seconds = time.perf_counter() - began
                found = {"seconds": seconds, **taken(before, read(os.getpid()), seconds)}
                print("ready", msgspec.json.encode(found).decode(), flush=True)

    app.agent(topic, concurrency=1, name="do-nothing")(do_nothing)
    return app


async def _run(settings: Settings, events: int) -> None:
    stop = asyncio.Event()
    end_with_parent(stop)
    await build_app(settings, events).start()
    await stop.wait()
    # Faust takes its time to stop, and nobody waits for it.
    os._exit(0)


def main() -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, required=True)
    events = parser.parse_args().events
    uvloop.install()
    asyncio.run(_run(load(), events))


if __name__ == "__main__":
    main()
