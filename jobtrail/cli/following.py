"""`jobtrail replay --follow`: events as they come, until somebody ends it."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Final

import click

from jobtrail.position import format_position

if TYPE_CHECKING:
    from jobtrail.replay import Filters, Replay
    from jobtrail.replay.replay import When

#: Seconds between two looks at the log's end.
_EVERY: Final = 0.25


def follow(opened: Replay, since: str | None, filters: Filters) -> None:
    """Print the log's events as JSON, a line each, and those that come, until SIGINT or SIGTERM.

    At the end, whatever ended it, the position to go on from is told on standard error.

    Args:
        opened: The log.
        since: Where to begin: a position, or the first instant that an event may name that is
            there already; None: the log's begin.
        filters: Only events of these jobs, chosen by ids if at all: more is not known of them yet.
    """
    from jobtrail.replay.export import ndjson
    from jobtrail.replay.replay import position_of

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    out = click.get_binary_stream("stdout")
    position = {**opened.begins, **(position_of(since) or {})}
    begin: When | None = since
    try:
        while not ended.is_set():
            for batch in opened.event_batches(filters, since=begin):
                out.writelines(ndjson(batch))
                out.flush()
                last = {name: batch.column(name)[-1].as_py() for name in ("partition", "offset")}
                position[last["partition"]] = last["offset"] + 1
                if ended.is_set():
                    return
            position |= opened.ends
            begin = position
            ended.wait(_EVERY)
            opened.refresh()
    finally:
        click.echo(f"position {format_position(position)}", err=True)
