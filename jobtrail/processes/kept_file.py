"""A small file about a running process, kept up to date while it runs.

It is written when its content has changed, and again when it was damaged or deleted. A full disk is
no reason to end.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from jobtrail.files.atomic import atomic_write
from jobtrail.processes.child_log import say

#: Seconds between two checks of the file.
_CHECK_EVERY: Final = 2.0


class KeptFile:
    """A file and its intended content.

    Args:
        path: The file; its folder has to exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted: bytes | None = None
        self._changed = asyncio.Event()
        self._fault = ""
        self._lock = asyncio.Lock()

    def want(self, content: bytes) -> None:
        """Set the intended content."""
        self._wanted = content
        self._changed.set()

    async def run(self) -> None:
        """Check and write the file, for ever."""
        while True:
            self._changed.clear()
            await self.keep()
            try:
                async with asyncio.timeout(_CHECK_EVERY):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def keep(self) -> None:
        """Write the file now, if its content differs."""
        fault = ""
        async with self._lock:
            try:
                await asyncio.to_thread(self._keep)
            except (OSError, RuntimeError) as error:
                # RuntimeError: no thread can be started.
                fault = f"{self._path} can't be written: {error}"
        if fault and fault != self._fault:
            say(f"{fault}; trying again every {_CHECK_EVERY:.0f} s")
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
        """Remove the file: the process ends."""
        async with self._lock:
            self._wanted = None
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                say(f"{self._path} can't be removed: {error}")
