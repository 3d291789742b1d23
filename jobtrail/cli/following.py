"""`jobtrail replay --follow`: events as they come, until somebody ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from jobtrail.position import format_position

if TYPE_CHECKING:
    from jobtrail.replay import Replay

#: Seconds between two looks at the log's end.
_EVERY: Final = 0.25


def follow(opened: Replay, since: str | None, job_ids: Sequence[str]) -> None:
    """Print the log's events as JSON, a line each, and those that come, until SIGINT or SIGTERM.

    At the end, whatever ended it, the position to go on from is told on standard error.

    Args:
        opened: The log.
        since: Where to begin: a position, or the first instant that an event may name that is
            there already; None: the log's begin.
        job_ids: Only events of these jobs; none: of all.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from jobtrail.replay.export import ndjson
    from jobtrail.replay.replay import position_of

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    out = click.get_binary_stream("stdout")
    wanted = pa.array(job_ids, pa.string())
    position = {**opened.begins, **(position_of(since) or {})}
    batches = opened.event_batches(since=since)
    try:
        while not ended.is_set():
            for batch in batches:
                told = batch
                if job_ids:
                    told = batch.filter(pc.is_in(batch.column("job_id"), value_set=wanted))
                out.writelines(ndjson(told))
                out.flush()
                position[batch.column("partition")[-1].as_py()] = (
                    batch.column("offset")[-1].as_py() + 1
                )
                if ended.is_set():
                    return
            position |= opened.ends
            ended.wait(_EVERY)
            opened.refresh()
            batches = opened.event_batches(since=position)
    finally:
        click.echo(f"position {format_position(position)}", err=True)
