"""How a process shows that its event loop turns.

It says `alive` on standard output every second. Who reads it ends the process when that stays away
for longer than the setting `hung_after`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import Final

#: Seconds between two words: `hung_after` is several of them.
BEAT: Final = 1.0
_OUTPUT: Final = 1


def say_alive() -> None:
    """Say it, unless nobody takes up what is said: waiting for that would make it untrue."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [_OUTPUT], [], 0)[1]:
            os.write(_OUTPUT, b"alive\n")


def keep_saying_alive() -> None:
    """Say it as long as the running event loop turns."""
    say_alive()
    asyncio.get_running_loop().call_later(BEAT, keep_saying_alive)
