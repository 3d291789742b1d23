"""The projector's way to its store: one call at a time, the long ones in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from jobtrail.core.errors import FencedError, StoreDamaged, StoreError
from projections.ports.write import Batch, Checkpoint, Entry, ProjectionWriter

logger = logging.getLogger(__name__)

_FIRST_RETRY: Final = 0.05
_LONGEST_RETRY: Final = 5.0


class StoreThread:
    """Calls a store, which is one thread's at a time.

    Args:
        store: Nobody else's from now on.
    """

    def __init__(self, store: ProjectionWriter) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        #: Whose call it is: of the event loop's thread or of the other one.
        self._turn = asyncio.Lock()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the store in its thread; who is cancelled before it has ended ends with the call.

        A thread can't be stopped.
        """
        async with self._turn:
            called = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
            try:
                return await asyncio.shield(called)
            except asyncio.CancelledError:
                while not called.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([called])
                raise

    async def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint."""
        found: dict[int, Checkpoint] = await self.call(self.store.checkpoints)
        return found

    async def load(self, partition: int, ids: Sequence[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that the store knows.

        On the event loop: to read waits for nobody, and going to the thread takes longer.
        """
        async with self._turn:
            return self.store.load(partition, ids)

    async def seen(self, partition: int, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these keys of events that a job has had before its last entries."""
        async with self._turn:
            return self.store.seen(partition, entry, keys)

    async def write(self, batches: Sequence[Batch]) -> None:
        """Apply batches; a store that can't be written is tried again until it can.

        Raises:
            FencedError: Another projector has moved a checkpoint.
            StoreDamaged: A part of the store has to be made again.
        """
        pause = _FIRST_RETRY
        while True:
            try:
                await self.call(self.store.apply, batches)
                return
            except (FencedError, StoreDamaged):
                raise
            except StoreError as error:
                logger.error("action=store_retry pause=%.2fs %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RETRY)

    async def rest(self) -> None:
        """Make what was written ready to be read fast; that it can't be done now is no harm."""
        try:
            await self.call(self.store.rest)
        except StoreError as error:
            logger.warning("action=store_restless %s", error)

    def close(self) -> None:
        """Wait for what is being written, then let go of the store."""
        self._thread.shutdown(wait=True)
        self.store.close()
