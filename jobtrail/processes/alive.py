"""How a process shows that its event loop runs.

It prints `alive` on standard output every second. Its supervisor ends it when that is missing for
longer than the setting `hung_after`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import Final

#: Seconds between two heartbeats: `hung_after` is several of them.
BEAT: Final = 1.0
_OUTPUT: Final = 1


def say_alive() -> None:
    """Print a heartbeat, unless the pipe is full: a late heartbeat would be a false one."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [_OUTPUT], [], 0)[1]:
            os.write(_OUTPUT, b"alive\n")


def keep_saying_alive() -> None:
    """Print heartbeats as long as the event loop runs."""
    say_alive()
    asyncio.get_running_loop().call_later(BEAT, keep_saying_alive)
