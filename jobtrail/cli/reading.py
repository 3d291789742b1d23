"""How commands open the log for replay, with progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobtrail.cli.common import chosen_data_dir, prepare_to_read, progress, skipper

if TYPE_CHECKING:
    from jobtrail.replay import Replay


@contextlib.contextmanager
def reading(
    what: str,
    *,
    bootstrap_servers: str | None,
    data_dir: Path | None,
    archive: str | None,
    max_rate: float | None = None,
    skip_holes: bool = False,
    shown: bool = True,
) -> Iterator[Replay]:
    """Open the log, and show progress on a terminal.

    Args:
        what: The activity, for the progress bar.
        bootstrap_servers: As in `Replay.open`, like the following ones.
        data_dir: As given to the command.
        archive: The same.
        max_rate: The same.
        skip_holes: Whether to continue after missing records, and report each hole.
        shown: Whether to show progress.
    """
    prepare_to_read()
    from jobtrail.replay import Replay

    with Replay.open(
        bootstrap_servers=bootstrap_servers,
        data_dir=chosen_data_dir(data_dir),
        archive=archive,
        max_rate=max_rate,
        skip_holes=skipper(skip_holes),
    ) as opened:
        if not shown:
            yield opened
            return
        total = sum(opened.ends[p] - begin for p, begin in opened.begins.items())
        with progress(f"reading {what}", total) as update:
            opened.progress = lambda done, _total: update(done)
            yield opened
