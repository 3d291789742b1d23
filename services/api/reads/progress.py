"""Polls the checkpoints of the projections, while that is needed.

Other processes write the projections and can't notify this one. So while the buffer has records, or
a request waits for a position, the checkpoints are read again and again.
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
from services.api.live.stalls import Stalls
from services.api.problems.problems import Problem, stopping
from services.api.store import Store

logger = logging.getLogger(__name__)

#: Records of each partition that are dropped in one poll, so that requests are served in between: a
#: microsecond each.
_DROPPED: Final = 32
#: Called with a snapshot at each poll; returns whether it needs another one.
Listener = Callable[[Snapshot], bool]


class Progress:
    """Follows the checkpoints of the projections.

    Args:
        store: The projections.
        buffer: Is trimmed as they advance.
        feed: Publishes the changes before that.
        stalls: Notes the checkpoints.
        timeouts: How often to poll.
    """

    def __init__(
        self, store: Store, buffer: Buffer, feed: Feed, stalls: Stalls, timeouts: Timeouts
    ) -> None:
        self._store = store
        self._buffer = buffer
        self._feed = feed
        self._stalls = stalls
        self._timeouts = timeouts
        self._waiting: dict[asyncio.Future[None], Callable[[Watermark], bool]] = {}
        self._closed = False
        self._needed = asyncio.Event()
        self._pausing: asyncio.Future[None] | None = None
        self._listener: Listener | None = None
        self._failing = False
        #: Whether the last poll left records to publish or to drop.
        self._more = False

    def listen(self, listener: Listener) -> None:
        """Set the function to call at each poll."""
        self._listener = listener

    @property
    def waiting(self) -> Collection[asyncio.Future[None]]:
        """The futures of those who wait for a condition of the projections."""
        return self._waiting.keys()

    def need(self) -> None:
        """Start to poll, if it is not polling."""
        self._needed.set()

    async def run(self) -> None:
        """Poll while it is needed, until cancelled."""
        while True:
            await self._needed.wait()
            try:
                if not self.poll():
                    self._needed.clear()
            except Exception:
                logger.exception("action=look_failed")
            await self._pause(self._interval())

    def _interval(self) -> float:
        """Return the seconds until the next poll."""
        if self._failing:
            return self._timeouts.poll
        if self._more:
            # Just long enough to serve other requests in between.
            return 0.001
        eager = self._waiting or self._feed.listeners
        return self._timeouts.eager_poll if eager else self._timeouts.poll

    async def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._pausing = loop.create_future()
        handle = loop.call_later(seconds, _wake, self._pausing)
        try:
            await self._pausing
        finally:
            handle.cancel()

    def poll(self) -> bool:
        """Read the checkpoints once; return whether another poll is needed."""
        more = False
        try:
            with self._store.snapshot(allow_recovering=True) as snapshot:
                watermark = snapshot.watermark
                self._stalls.note(watermark)
                more = self._feed.publish(snapshot, self._store.partitions)
                applied = watermark.position
                if watermark.recovering:
                    # Their checkpoints may be of a log that was replaced.
                    applied = {p: o for p, o in applied.items() if p not in watermark.recovering}
                more = self._buffer.trim(self._feed.trim_position(applied), _DROPPED) or more
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
            if is_there(watermark):
                _wake(future)
        return more or bool(self._waiting) or bool(self._buffer.size)

    async def reaches(self, wanted: Mapping[int, int]) -> bool:
        """Wait until the projections reach a position.

        Args:
            wanted: The position.

        Returns:
            Whether they did in time.
        """
        return await self.until(
            lambda watermark: holds(watermark.position, wanted), self._timeouts.position
        )

    async def leaves(self, position: Mapping[int, int], seconds: float) -> bool:
        """Wait until the position of the projections is another one.

        Returns:
            Whether they did in time.
        """
        return await self.until(lambda watermark: watermark.position != position, seconds)

    async def until(self, is_there: Callable[[Watermark], bool], seconds: float) -> bool:
        """Wait until a condition of the watermark holds.

        Args:
            is_there: The condition.
            seconds: For how long, at most.

        Returns:
            Whether it held in time.

        Raises:
            Problem: 503 where the service stops.
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
        """End all waiting: the service stops."""
        self._closed = True
        for future in self._waiting:
            _wake(future)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
