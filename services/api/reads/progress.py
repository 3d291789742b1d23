"""Up to where the projections are: looked at only while somebody needs to know.

The projections are written by other processes, which can't tell us; so while the buffer holds
records, or a request waits for a position, their checkpoints are read again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from jobtrail.core.position import holds
from projections.ports.read import Snapshot, Watermark
from services.api.feed.feed import Feed
from services.api.limits.limits import Timeouts
from services.api.live.buffer import Buffer
from services.api.live.standing import Standing
from services.api.problems.problems import Problem, stopping
from services.api.store import Store

logger = logging.getLogger(__name__)

#: Records that are dropped at one look, of each partition, so that requests are served in between:
#: a microsecond each.
_DROPPED: Final = 32
#: Is told of a snapshot at each look; returns whether it needs another look.
Listener = Callable[[Snapshot], bool]


class Progress:
    """Follows the checkpoints of the projections.

    Args:
        store: The projections.
        buffer: Is trimmed as they move on.
        feed: Is told of them before.
        standing: Is told of them too.
        timeouts: How often to look.
    """

    def __init__(
        self, store: Store, buffer: Buffer, feed: Feed, standing: Standing, timeouts: Timeouts
    ) -> None:
        self._store = store
        self._buffer = buffer
        self._feed = feed
        self._standing = standing
        self._patience = timeouts
        self._waiting: dict[asyncio.Future[None], Callable[[Watermark], bool]] = {}
        self._closed = False
        self._needed = asyncio.Event()
        self._pausing: asyncio.Future[None] | None = None
        self._listener: Listener | None = None
        self._failing = False
        #: Whether there is more to be told than one look takes.
        self._more = False

    def listen(self, listener: Listener) -> None:
        """Let one other look on."""
        self._listener = listener

    @property
    def waiting(self) -> Collection[asyncio.Future[None]]:
        """Who waits for something to be true of the projections."""
        return self._waiting.keys()

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
            await self._pause(self._interval())

    def _interval(self) -> float:
        """Return the seconds until the next look."""
        if self._failing:
            return self._patience.look
        if self._more:
            # No longer than others need to be served in between.
            return 0.001
        eager = self._waiting or self._feed.listeners
        return self._patience.eager_look if eager else self._patience.look

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
            with self._store.snapshot(allow_recovering=True) as snapshot:
                held = snapshot.watermark
                self._standing.note(held)
                more = self._feed.publish(snapshot, self._store.partitions)
                whole = held.position
                if held.recovering:
                    # What is of another log says nothing of how far this one is held.
                    whole = {p: o for p, o in whole.items() if p not in held.recovering}
                more = self._buffer.trim(self._feed.kept(whole), _DROPPED) or more
                self._more = more
                if self._listener is not None:
                    more = self._listener(snapshot) or more
        except Problem as problem:
            if not self._failing:
                logger.warning("action=look_failed %s", problem.__cause__)
            self._failing = True
            return True
        self._failing = False
        for future, is_there in self._waiting.items():
            if is_there(held):
                _wake(future)
        return more or bool(self._waiting) or bool(self._buffer.size)

    async def reaches(self, wanted: Mapping[int, int]) -> bool:
        """Wait until the projections hold a position.

        Args:
            wanted: Per partition the offset before which they shall hold everything.

        Returns:
            Whether they did in time.
        """
        return await self.until(lambda held: holds(held.position, wanted), self._patience.position)

    async def leaves(self, position: Mapping[int, int], seconds: float) -> bool:
        """Wait until the projections hold anything else than at a position.

        Returns:
            Whether they did in time.
        """
        return await self.until(lambda held: held.position != position, seconds)

    async def until(self, is_there: Callable[[Watermark], bool], seconds: float) -> bool:
        """Wait until something is true of what the projections hold.

        Args:
            is_there: Tells whether it is.
            seconds: For how long, at most.

        Returns:
            Whether it was in time.

        Raises:
            Problem: 503 where the service is stopped.
        """
        if self._closed:
            raise stopping()
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
        if self._closed:
            raise stopping()
        return True

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closed = True
        for future in self._waiting:
            _wake(future)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
