"""The projector's access to its store: one call at a time, long ones in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from jobtrail.core.errors import FencedError, StoreDamaged, StoreError
from projections.ports.write import Checkpoint, Entry, FoldedBatch, ProjectionWriter

logger = logging.getLogger(__name__)

_FIRST_RETRY: Final = 0.05
_LONGEST_RETRY: Final = 5.0


class StoreThread:
    """Calls a store, which may be used by one thread at a time.

    Args:
        store: Used by nobody else from now on.
    """

    def __init__(self, store: ProjectionWriter) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        #: Locked during each call, in the event loop's thread or in the other one.
        self._turn = asyncio.Lock()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the store in its thread; a cancellation takes effect when the call has ended.

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
        """Return those of these jobs of a partition that the store has."""
        found: dict[str, Entry] = await self._read(self.store.load, partition, ids)
        return found

    async def seen(self, partition: int, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these keys of events that a job has had before its last entries."""
        found: Set[bytes] = await self._read(self.store.seen, partition, entry, keys)
        return found

    async def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Read on the event loop where that waits for nobody; a call in the thread takes longer."""
        if not self.store.reads_at_once:
            return await self.call(function, *arguments)
        async with self._turn:
            return function(*arguments)

    async def write(self, batches: Sequence[FoldedBatch]) -> None:
        """Apply batches; while the store can't be written it is tried again.

        Raises:
            FencedError: Another projector has moved a checkpoint.
            StoreDamaged: A part of the store has to be replaced.
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

    async def checkpoint_wal(self) -> None:
        """Move the WAL into the store's files for faster reads; a failure is only logged."""
        try:
            await self.call(self.store.checkpoint_wal)
        except StoreError as error:
            logger.warning("action=store_restless %s", error)

    def close(self) -> None:
        """Wait for the current call, then close the store."""
        self._thread.shutdown(wait=True)
        self.store.close()
