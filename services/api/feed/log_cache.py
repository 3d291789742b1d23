"""What was read of the log and may be wanted again at once: bounded in bytes and in time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class OffsetRange(Protocol):
    """Consecutive offsets of a partition, and what is known of them."""

    @property
    def partition(self) -> int:
        """Where they lie."""

    @property
    def begin(self) -> int:
        """The first offset."""

    @property
    def end(self) -> int:
        """The offset behind the last one."""

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""


_S = TypeVar("_S", bound=OffsetRange)


class LogCache(Generic[_S]):
    """Keeps stretches of the log.

    Args:
        most: Bytes; beyond it those go that were kept longest. One that is larger is not kept.
        seconds: For how long each is kept.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        #: By partition and first offset, with when it was kept; the oldest first.
        self._kept: OrderedDict[tuple[int, int], tuple[float, _S]] = OrderedDict()
        #: Bytes of all.
        self.size = 0
        #: How many went for want of room.
        self.dropped = 0

    def find(self, partition: int, offset: int) -> _S | None:
        """Return a stretch in which an offset lies; None where none is kept."""
        for _since, stretch in self._kept.values():
            if stretch.partition == partition and stretch.begin <= offset < stretch.end:
                return stretch
        return None

    def keep(self, stretch: _S) -> None:
        """Keep a stretch."""
        if stretch.size > self._most:
            # Or all others would go for it, and then it too.
            self.dropped += 1
            return
        loop = asyncio.get_running_loop()
        place = stretch.partition, stretch.begin
        if place in self._kept:
            self._drop(place)
        self._kept[place] = loop.time(), stretch
        self.size += stretch.size
        while self.size > self._most:
            self.dropped += 1
            self._drop(next(iter(self._kept)))
        # Not the stretch itself, which would be kept for as long as the timer.
        loop.call_later(self._seconds, self._drop_old)

    def _drop_old(self) -> None:
        before = asyncio.get_running_loop().time() - self._seconds
        while self._kept:
            place, (since, _stretch) = next(iter(self._kept.items()))
            if since > before:
                return
            self._drop(place)

    def _drop(self, place: tuple[int, int]) -> None:
        _since, stretch = self._kept.pop(place)
        self.size -= stretch.size

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self.size = 0
