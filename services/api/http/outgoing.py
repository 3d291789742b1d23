"""Bytes of answers that their clients have not taken yet: bounded per caller and per process.

An answer is in memory until its client has read it. A client that asks for much and reads nothing
would fill the memory of the process with as many answers as it has connections. So it is counted
from when it is made. Where there is no room, one that has not begun is refused; one that has begun
waits, and so may as many bytes as may be under way. What would be more is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from services.api.limits.overload import busy, too_many_bytes

#: Smaller parts are not counted: the kernel takes as much of each connection.
LARGE: Final = 64 * 1024
#: Waits until so many bytes may go out, and counts them until they have.
Room = Callable[[int], AbstractAsyncContextManager[None]]


class Outgoing:
    """Counts what is under way to clients.

    Args:
        total: Bytes at most, of all.
        per_caller: Bytes at most, of one caller; a single part may always go out.
    """

    def __init__(self, total: int, per_caller: int) -> None:
        self._total = total
        self._per_caller = per_caller
        self._under_way: Counter[str] = Counter()
        #: Bytes that wait for room.
        self._held_back: Counter[str] = Counter()
        self._waiting: list[asyncio.Future[None]] = []
        self.size = 0
        #: How often there was no room, by whose bound it was.
        self.refused: Counter[str] = Counter(caller=0, process=0)

    def check(self, user: str) -> None:
        """Refuse a caller who has not taken what they asked for before.

        Raises:
            Problem: 429.
        """
        if self._under_way[user] + self._held_back[user] >= self._per_caller:
            self.refused["caller"] += 1
            raise too_many_bytes(self._per_caller)

    def take(self, user: str, size: int, *, written: bool = False) -> None:
        """Count an answer that goes out now; `free` has to follow.

        Args:
            user: To whom.
            size: Bytes of it.
            written: Whether it says what was written: that can't be refused any more.

        Raises:
            Problem: 429 or 503 where there is no room.
        """
        if not written and not self.has_room(user, size):
            own = self._under_way[user] + size > self._per_caller
            self.refused["caller" if own else "process"] += 1
            raise too_many_bytes(self._per_caller) if own else busy()
        self._count(user, size)

    def free(self, user: str, size: int) -> None:
        """Count an answer no longer."""
        self._count(user, -size)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @contextlib.asynccontextmanager
    async def room(self, user: str, size: int) -> AsyncIterator[None]:
        """Wait until a part of an answer that has begun may go out.

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
            ConnectionError: So much waits already that the answer is cut off.
        """
        if not self.has_room(user, size):
            held_back = self._held_back
            own = held_back[user] + size > self._per_caller
            if held_back[user] and (own or held_back.total() + size > self._total):
                self.refused["caller" if own else "process"] += 1
                raise ConnectionResetError("too much waits for clients that do not read")
            held_back[user] += size
            try:
                while not self.has_room(user, size):
                    future = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
            finally:
                held_back[user] -= size
                if not held_back[user]:
                    del held_back[user]
        self._count(user, size)

    def has_room(self, user: str, size: int) -> bool:
        """Tell whether so many bytes more may be under way to a caller."""
        mine = self._under_way[user]
        return (not mine or mine + size <= self._per_caller) and (
            not self.size or self.size + size <= self._total
        )

    def _count(self, user: str, size: int) -> None:
        self.size += size
        self._under_way[user] += size
        if not self._under_way[user]:
            del self._under_way[user]
