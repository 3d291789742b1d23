"""How a process of the service ends when it is told to: in order, and in bounded time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Final

logger = logging.getLogger(__name__)

#: What a shell has as the exit status of a process that a signal ended: this and its number.
_BY_SIGNAL: Final = 128


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set an event on the first SIGTERM or SIGINT; end the process at once on the second.

    Who sends the second one does not want to wait for the first one's order. That is safe at any
    time: what is not in the store by then is folded again.

    Args:
        stop: Is set on the running event loop.
    """
    told = False

    def tell(number: int) -> None:
        nonlocal told
        if told:
            logger.warning("action=stopped_at_once the second signal to stop came")
            end_now(_BY_SIGNAL + number)
        told = True
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, tell, number)


def end_now(status: int) -> None:
    """End the process at once: threads of libraries may hang, and are not waited for.

    Args:
        status: The exit status.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


def end_within(seconds: float, status: int) -> None:
    """End the process if it has not ended by itself.

    From a thread, since a library that hangs may keep the event loop, or swallow a cancellation.

    Args:
        seconds: From now on.
        status: The exit status then.
    """
    timer = threading.Timer(seconds, end_now, [status])
    timer.daemon = True
    timer.start()
