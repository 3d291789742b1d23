"""What every process of the service does alike: logging, and ending together with its parent."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from pathlib import Path

from jobtrail.settings import Settings, as_environment


def set_up_logging(settings: Settings) -> None:
    """Log to standard error, one line a record, at the level of the settings."""
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )
    for chatty in ("aiokafka", "faust", "mode", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def end_with_parent(stop: asyncio.Event) -> None:
    """Set `stop` when standard input ends: the parent that held its other end is gone.

    It works wherever pipes do, and when the parent was killed with SIGKILL.
    """
    loop = asyncio.get_running_loop()

    def read() -> None:
        # Not through sys.stdin: its lock, held here, breaks the interpreter's end.
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read, name="parent", daemon=True).start()


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which this service's processes are started as modules.

    In a checkout they lie beside the package; in an installed wheel inside of it, so that nothing
    as generic as `services` becomes a top-level import name of the user's environment.
    """
    package = Path(__file__).resolve().parent
    bundled = package / "_processes"
    roots = [str(bundled if bundled.is_dir() else package.parent), str(package.parent)]
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*dict.fromkeys(roots), *([inherited] if inherited else [])])
    return {**os.environ, **as_environment(settings), "PYTHONPATH": path}
