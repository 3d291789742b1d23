"""A small file that says something of a running process: kept as it should be while that runs.

It is written when what it says has changed, and again when somebody has torn or deleted it. A disk
that takes nothing for a while is no reason to end.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from jobtrail.files.atomic import atomic_write
from jobtrail.processes.child_log import say

#: Seconds between two looks at the file.
_LOOK: Final = 2.0


class KeptFile:
    """A file and what it should hold.

    Args:
        path: Where; its folder has to be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted: bytes | None = None
        self._changed = asyncio.Event()
        self._fault = ""
        self._lock = asyncio.Lock()

    def want(self, content: bytes) -> None:
        """Say what it should hold from now on."""
        self._wanted = content
        self._changed.set()

    async def run(self) -> None:
        """Keep it, for ever."""
        while True:
            self._changed.clear()
            await self.keep()
            try:
                async with asyncio.timeout(_LOOK):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def keep(self) -> None:
        """Write it now where it is not as it should be."""
        fault = ""
        async with self._lock:
            try:
                await asyncio.to_thread(self._keep)
            except (OSError, RuntimeError) as error:
                # RuntimeError: no thread can be started.
                fault = f"{self._path} can't be written: {error}"
        if fault and fault != self._fault:
            say(f"{fault}; trying again every {_LOOK:.0f} s")
        self._fault = fault

    def _keep(self) -> None:
        wanted = self._wanted
        if wanted is None:
            return
        try:
            if self._path.read_bytes() == wanted:
                return
        except FileNotFoundError:
            pass
        atomic_write(self._path, wanted)

    async def forget(self) -> None:
        """Remove it: what it says is over."""
        async with self._lock:
            self._wanted = None
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                say(f"{self._path} can't be removed: {error}")
