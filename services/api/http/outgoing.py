"""Bounds the bytes of answers that clients have not read yet, per caller and per process.

An answer is in memory until its client has read it. A client that asks for much and reads nothing
could fill the memory with as many answers as it has connections. So large answers are counted from
when they are made. Without room, an answer that has not begun is refused, and one that has begun
waits. As many bytes may wait as may be unread; beyond that, connections are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from services.api.limits.overload import busy, too_many_bytes

#: Bytes; smaller parts are not counted, since the kernel buffers as much for each connection.
LARGE: Final = 64 * 1024
#: Waits until so many bytes may be sent, and counts them until the client has read them.
Room = Callable[[int], AbstractAsyncContextManager[None]]


class Outgoing:
    """Counts unread bytes of answers.

    Args:
        total: Bytes at most, of all.
        per_caller: Bytes at most, of one caller; a single part is always allowed.
    """

    def __init__(self, total: int, per_caller: int) -> None:
        self._total = total
        self._per_caller = per_caller
        self._unread: Counter[str] = Counter()
        #: Bytes that wait for room, by user.
        self._waiting_bytes: Counter[str] = Counter()
        self._waiting: list[asyncio.Future[None]] = []
        self.size = 0
        #: How often there was no room, by the bound that was met.
        self.refused: Counter[str] = Counter(caller=0, process=0)

    def check(self, user: str) -> None:
        """Refuse a caller who has not read their earlier answers.

        Raises:
            Problem: 429.
        """
        if self._unread[user] + self._waiting_bytes[user] >= self._per_caller:
            self.refused["caller"] += 1
            raise too_many_bytes(self._per_caller)

    def take(self, user: str, size: int, *, written: bool = False) -> None:
        """Count an answer that is sent now; `free` has to follow.

        Args:
            user: Who receives it.
            size: Bytes of it.
            written: Whether it acknowledges a write, and so can't be refused any more.

        Raises:
            Problem: 429 or 503 where there is no room.
        """
        if not written and not self.has_room(user, size):
            own = self._unread[user] + size > self._per_caller
            self.refused["caller" if own else "process"] += 1
            raise too_many_bytes(self._per_caller) if own else busy()
        self._count(user, size)

    def free(self, user: str, size: int) -> None:
        """Count an answer no longer: the client has read it."""
        self._count(user, -size)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @contextlib.asynccontextmanager
    async def room(self, user: str, size: int) -> AsyncIterator[None]:
        """Wait until a part of an answer that has begun may be sent.

        Raises:
            ConnectionError: As `wait_for_room`.
        """
        if size < LARGE:
            yield
            return
        await self.wait_for_room(user, size)
        try:
            yield
        finally:
            self.free(user, size)

    async def wait_for_room(self, user: str, size: int) -> None:
        """Count a part of an answer that has begun, once there is room; `free` has to follow.

        Raises:
            ConnectionError: Too many bytes wait already; the connection is to be closed.
        """
        if not self.has_room(user, size):
            waiting_bytes = self._waiting_bytes
            own = waiting_bytes[user] + size > self._per_caller
            if waiting_bytes[user] and (own or waiting_bytes.total() + size > self._total):
                self.refused["caller" if own else "process"] += 1
                raise ConnectionResetError("too much waits for clients that do not read")
            waiting_bytes[user] += size
            try:
                while not self.has_room(user, size):
                    future = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
            finally:
                waiting_bytes[user] -= size
                if not waiting_bytes[user]:
                    del waiting_bytes[user]
        self._count(user, size)

    def has_room(self, user: str, size: int) -> bool:
        """Tell whether a caller may have so many more unread bytes."""
        mine = self._unread[user]
        return (not mine or mine + size <= self._per_caller) and (
            not self.size or self.size + size <= self._total
        )

    def _count(self, user: str, size: int) -> None:
        self.size += size
        self._unread[user] += size
        if not self._unread[user]:
            del self._unread[user]
