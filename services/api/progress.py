"""Up to where the projections are: looked at only while somebody needs to know.

The projections are written by other processes, which can't tell us; so while the buffer holds
records, or a request waits for a position, their checkpoints are read again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from jobtrail.errors import StoreError
from jobtrail.position import holds
from projections.reading import Snapshot
from services.api.buffer import Buffer
from services.api.feed import Feed
from services.api.limits import Patience
from services.api.store import Store

logger = logging.getLogger(__name__)

#: Is told of a snapshot at each look; returns whether it needs another look.
Listener = Callable[[Snapshot], bool]


class Progress:
    """Follows the checkpoints of the projections.

    Args:
        store: The projections.
        buffer: Is trimmed as they move on.
        feed: Is told of them before.
        patience: How often to look.
    """

    def __init__(self, store: Store, buffer: Buffer, feed: Feed, patience: Patience) -> None:
        self._store = store
        self._buffer = buffer
        self._feed = feed
        self._patience = patience
        self._waiting: dict[asyncio.Future[None], Callable[[Mapping[int, int]], bool]] = {}
        self._needed = asyncio.Event()
        self._pausing: asyncio.Future[None] | None = None
        self._listener: Listener | None = None
        self._failing = False

    def listen(self, listener: Listener) -> None:
        """Let one other look on."""
        self._listener = listener

    def need(self) -> None:
        """Say that somebody needs to know."""
        self._needed.set()

    async def run(self) -> None:
        """Look as long as it is needed, for ever."""
        while True:
            await self._needed.wait()
            try:
                if not self.look():
                    self._needed.clear()
            except Exception:
                logger.exception("action=look_failed")
            eager = (self._waiting or self._feed.listeners) and not self._failing
            await self._pause(self._patience.eager_look if eager else self._patience.look)

    async def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._pausing = loop.create_future()
        handle = loop.call_later(seconds, _wake, self._pausing)
        try:
            await self._pausing
        finally:
            handle.cancel()

    def look(self) -> bool:
        """Look once; return whether anybody needs another look."""
        more = False
        try:
            with self._store.view() as snapshot:
                held = snapshot.held
                more = self._feed.publish(snapshot, self._store.partitions)
                self._buffer.trim(self._feed.kept(held.position))
                if self._listener is not None:
                    more = self._listener(snapshot) or more
        except StoreError as error:
            if not self._failing:
                logger.warning("action=look_failed %s", error)
            self._failing = True
            return True
        self._failing = False
        for future, is_there in self._waiting.items():
            if is_there(held.position):
                _wake(future)
        return more or bool(self._waiting) or bool(self._buffer.size)

    async def reaches(self, wanted: Mapping[int, int]) -> bool:
        """Wait until the projections hold a position.

        Args:
            wanted: Per partition the offset before which they shall hold everything.

        Returns:
            Whether they did in time.
        """
        return await self._wait(lambda held: holds(held, wanted), self._patience.position)

    async def leaves(self, position: Mapping[int, int], seconds: float) -> bool:
        """Wait until the projections hold anything else than at a position.

        Returns:
            Whether they did in time.
        """
        return await self._wait(lambda held: held != position, seconds)

    async def _wait(self, is_there: Callable[[Mapping[int, int]], bool], seconds: float) -> bool:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = is_there
        self.need()
        _wake(self._pausing)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            del self._waiting[future]
        return True


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
