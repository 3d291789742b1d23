"""What every process of the service does alike: logging, and ending together with its parent."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

from jobtrail.settings import Settings


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
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read, name="parent", daemon=True).start()
