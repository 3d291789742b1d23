"""Fair turns: what one caller asks for costs that caller time, and the others next to none.

Requests that arrive together would be answered in the order in which they came, those of one who
sends many before the one of another. So whatever takes time is done by turns of callers: on the
event loop (`Turns`), and where only one request at a time can be served (`FairQueue`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic
from typing import Final

#: Requests of one caller that are begun in one turn while others are there.
_AT_ONCE: Final = 2
#: Seconds of a turn while nobody waits: a few small answers. To be called in each turn of the event
#: loop would cost each of them 2 us.
_TURN: Final = 0.000_5
#: Seconds for which a caller counts as there.
_THERE: Final = 1.0
#: Callers whose costs are kept although they do not wait.
_KEPT: Final = 1_024


class Turns:
    """Shares out the event loop: while several callers ask, each begins few requests at a time.

    A caller who is alone waits for nothing.
    """

    def __init__(self) -> None:
        self._user = ""
        #: Whether several callers are there, and until when that counts.
        self._crowded = False
        self._until = 0.0
        #: How many requests each caller has begun in this turn, and when it ends if nobody waits.
        self._begun: dict[str, int] = {}
        self._ends = 0.0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def enter(self, user: str) -> asyncio.Future[None] | None:
        """Begin a request.

        Args:
            user: Whose.

        Returns:
            What has to be awaited first; None where it may go on at once.
        """
        if user != self._user:
            self._user = user
            self._crowded = True
            now = monotonic()
            self._until = now + _THERE
        elif not self._crowded:
            return None
        else:
            now = monotonic()
        if now >= self._ends:
            self._begun.clear()
            self._ends = now + _TURN
        begun = self._begun.get(user, 0)
        if begun < _AT_ONCE and user not in self._waiting:
            self._begun[user] = begun + 1
            return None
        if now > self._until and len(self._waiting) <= 1:
            self._crowded = False
        return self._wait(user)

    async def pause(self, user: str) -> None:
        """Let others have their turn in the middle of a request that takes long."""
        await self._wait(user)

    def _wait(self, user: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(future)
        self._schedule()
        return future

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Begin the next turn of the loop: one of each caller's requests that wait goes on."""
        self._scheduled = False
        self._begun.clear()
        for user, futures in list(self._waiting.items()):
            while futures:
                future = futures.popleft()
                if not future.done():
                    future.set_result(None)
                    self._begun[user] = 1
                    break
            if not futures:
                del self._waiting[user]
        if self._waiting:
            self._schedule()


class FairQueue:
    """One thing that a single request at a time can use, by turns of their callers.

    The next one is of the caller whose requests have taken least, counted from when they came.
    Source: Goyal, Vin and Cheng, "Start-time fair queueing", 1996.

    Args:
        total: Requests that may use it or wait for it.
        per_caller: The same for one caller.
        full: Makes the problem where there is no room; is told whether it is the caller's own.
    """

    def __init__(self, total: int, per_caller: int, full: Callable[[bool], Exception]) -> None:
        self._total = total
        self._per_caller = per_caller
        self._full = full
        self._busy = False
        self._there: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        #: What each caller has taken, and what the one had who came last: virtual seconds.
        self._taken: dict[str, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        """Return how many requests use it or wait."""
        return self._there.total()

    async def enter(self, user: str, *, begun: bool = False) -> None:
        """Wait for the next turn of a caller; `leave` has to follow.

        Args:
            user: Who.
            begun: Whether it is for an answer that has begun: it is not refused any more.

        Raises:
            Exception: There are too many.
        """
        if not begun:
            if self._there[user] >= self._per_caller:
                raise self._full(True)
            if len(self) >= self._total:
                raise self._full(False)
        self._there[user] += 1
        if not self._busy:
            self._busy = True
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave(user, 0.0)
            else:
                self._count_out(user)
            raise

    def leave(self, user: str, cost: float) -> None:
        """Let the next one have its turn.

        Args:
            user: Who had it.
            cost: Seconds that it took.
        """
        self._taken[user] = max(self._taken.get(user, 0.0), self._now) + cost
        self._count_out(user)
        while self._waiting:
            self._now, following = min((self._start(name), name) for name in self._waiting)
            futures = self._waiting[following]
            future = futures.popleft()
            if not futures:
                del self._waiting[following]
            if not future.done():
                future.set_result(None)
                if len(self._taken) > _KEPT:
                    self._taken = {u: t for u, t in self._taken.items() if t > self._now}
                return
        self._busy = False
        self._taken.clear()
        self._now = 0.0

    def _start(self, user: str) -> float:
        return max(self._taken.get(user, 0.0), self._now)

    def _count_out(self, user: str) -> None:
        self._there[user] -= 1
        if not self._there[user]:
            del self._there[user]
