"""A cache of ranges of the log that were read, bounded in bytes and in time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class OffsetRange(Protocol):
    """Consecutive offsets of a partition, with what was read there."""

    @property
    def partition(self) -> int:
        """The partition."""

    @property
    def begin(self) -> int:
        """The first offset."""

    @property
    def end(self) -> int:
        """The offset after the last one."""

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""


_S = TypeVar("_S", bound=OffsetRange)


class LogCache(Generic[_S]):
    """Caches ranges of the log.

    Args:
        most: Bytes of all together. Beyond it the oldest are dropped. A larger range is not cached.
        seconds: For how long each is cached.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        #: By partition and first offset, with the time when it was added; the oldest first.
        self._ranges: OrderedDict[tuple[int, int], tuple[float, _S]] = OrderedDict()
        #: Bytes of all.
        self.size = 0
        #: How many were dropped before their time, because the cache was full.
        self.dropped = 0

    def find(self, partition: int, offset: int) -> _S | None:
        """Return a cached range that contains an offset, or None."""
        for _since, found in self._ranges.values():
            if found.partition == partition and found.begin <= offset < found.end:
                return found
        return None

    def add(self, added: _S) -> None:
        """Add a range."""
        if added.size > self._most:
            # Else all others would be dropped for it, and then it too.
            self.dropped += 1
            return
        loop = asyncio.get_running_loop()
        place = added.partition, added.begin
        if place in self._ranges:
            self._drop(place)
        self._ranges[place] = loop.time(), added
        self.size += added.size
        while self.size > self._most:
            self.dropped += 1
            self._drop(next(iter(self._ranges)))
        # Not of the range itself, which the timer would keep in memory.
        loop.call_later(self._seconds, self._drop_old)

    def _drop_old(self) -> None:
        before = asyncio.get_running_loop().time() - self._seconds
        while self._ranges:
            place, (since, _found) = next(iter(self._ranges.items()))
            if since > before:
                return
            self._drop(place)

    def _drop(self, place: tuple[int, int]) -> None:
        _since, found = self._ranges.pop(place)
        self.size -= found.size

    def clear(self) -> None:
        """Drop everything."""
        self._ranges.clear()
        self.size = 0
