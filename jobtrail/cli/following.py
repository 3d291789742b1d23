"""`jobtrail replay --follow` and `--since last`: events as they come, and exports that grow."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from jobtrail.core.errors import UsageError
from jobtrail.core.position import format_position, holds
from jobtrail.terminal.text import err, out_json_lines

if TYPE_CHECKING:
    import pyarrow as pa

    from jobtrail.replay import Filters, Replay
    from jobtrail.replay.following import Following

#: Seconds between two checks of the log's end.
_EVERY: Final = 0.25


class _Sink(Protocol):
    """Where events go."""

    def add(self, batch: pa.RecordBatch) -> None: ...

    def due(self, *, at_end: bool) -> bool: ...

    def commit(self, position: dict[int, int]) -> None: ...


class _Printed:
    """Standard output."""

    def add(self, batch: pa.RecordBatch) -> None:
        from jobtrail.replay.export.export import ndjson

        out_json_lines(ndjson(batch))

    def due(self, *, at_end: bool) -> bool:
        return False

    def commit(self, position: dict[int, int]) -> None:
        pass


def follow(opened: Replay, since: str | None, filters: Filters) -> None:
    """Print the log's events, then new ones, as JSON lines, until SIGINT or SIGTERM.

    At the end, or after an error, the position to continue from is printed on standard error.

    Args:
        opened: The log.
        since: Where to begin: a position, or the earliest time of an event; None: the log's begin.
        filters: Only events of jobs that match after the event.
    """
    from jobtrail.replay.following import Following

    ended = _ended_by_signals()
    with Following(opened, filters, since, ended=ended) as following:
        _keep_up(opened, following, _Printed(), ended)


def grow(
    opened: Replay,
    to: Path,
    filters: Filters,
    since: str | None,
    *,
    by_day: bool = False,
    raw: bool = False,
    keep_on: bool = False,
) -> int:
    """Add the events since its end to an export, or begin it.

    Args:
        opened: The log.
        to: The file, or the folder of Parquet files.
        filters: As in `follow`; for an existing export the same as when it was begun.
        since: Where to begin; None: as it was begun, else the log's begin.
        by_day: Whether the folder has one for each day.
        raw: Whether CSV cells that look like formulas are not escaped.
        keep_on: Whether to continue with new events, as `follow` does.

    Returns:
        How many events were added.

    Raises:
        UsageError: The existing export can't be continued.
    """
    from jobtrail.replay.export.growing import Selection, growing
    from jobtrail.replay.following import Following

    ended = _ended_by_signals() if keep_on else threading.Event()
    with growing(to, Selection.of(filters, since, by_day=by_day, raw=raw)) as export:
        position = export.position
        if position is not None and not holds(opened.ends, position):
            raise UsageError(
                "The export is of another log, or of more than this one has.",
                where=str(to),
                expected=f"one up to {format_position(opened.ends)} at most",
                found=f"one at {format_position(position)}",
            )
        with Following(opened, filters, export.since, position=position, ended=ended) as following:
            if keep_on:
                _keep_up(opened, following, export, ended)
            else:
                _catch_up(following, export)
                export.commit(following.position)
        return export.rows


def _keep_up(opened: Replay, following: Following, sink: _Sink, ended: threading.Event) -> None:
    """Pass on existing and new events until a signal, then print the position."""
    try:
        while not ended.is_set():
            _catch_up(following, sink)
            ended.wait(_EVERY)
            opened.refresh()
        sink.commit(following.position)
    finally:
        err(f"position {format_position(following.position)}")


def _catch_up(following: Following, sink: _Sink) -> None:
    for batch in following.new():
        sink.add(batch)
        if sink.due(at_end=False):
            sink.commit(following.position)
    if sink.due(at_end=True):
        sink.commit(following.position)


def _ended_by_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set from now on."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended
