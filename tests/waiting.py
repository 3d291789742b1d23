"""How tests wait for what others do: by looking again and again, and never for a number of seconds.

A test that sleeps is too short on a busy machine, and too long on any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: Seconds between two looks at something that tells nobody when it changes.
LOOK_EVERY: Final = 0.01
#: Seconds after which a test fails that waits for something.
WITHIN: Final = 60.0


async def look_again() -> None:
    """Let others go on before a condition is looked at once more."""
    await asyncio.sleep(LOOK_EVERY)


async def until(condition: Callable[[], object], within: float = WITHIN) -> None:
    """Return once a condition holds.

    Args:
        condition: Looked at again and again.
        within: Seconds.

    Raises:
        TimeoutError: It did not hold within that time.
    """
    async with asyncio.timeout(within):
        while not condition():
            await look_again()


async def let_all_run(turns: int = 100) -> None:
    """Let everything that can go on do so, so often that what is to happen has happened.

    Args:
        turns: Of the event loop. Between them the kernel is asked for what has arrived.
    """
    for _ in range(turns):
        await asyncio.sleep(0)
