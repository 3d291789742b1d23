"""Fair turns: the load that one caller causes slows that caller, and hardly the others.

Requests that arrive together would be answered in order of arrival: all of a caller who sends many
before the one of another caller. So callers take turns: on the event loop (`Turns`), and where only
one request at a time can be served (`FairQueue`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic
from typing import Final

#: Requests of one caller that begin in one turn while other callers are active.
_AT_ONCE: Final = 2
#: Seconds of a turn while no request waits: the time of a few small answers. A callback in each
#: iteration of the event loop instead would cost each answer 2 us.
_TURN: Final = 0.000_5
#: Seconds after their last request for which a caller counts as active.
_ACTIVE_FOR: Final = 1.0
#: Callers whose costs are remembered although they have no request waiting.
_REMEMBERED: Final = 1_024


class Turns:
    """Shares the event loop: while several callers are active, each begins few requests at a time.

    A caller who is alone never waits.
    """

    def __init__(self) -> None:
        self._user = ""
        #: Whether several callers are active, and until when that counts.
        self._crowded = False
        self._until = 0.0
        #: How many requests each caller has begun in this turn, and when it ends if none waits.
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
            user: Who sent it.

        Returns:
            A future to await first; None where the request may go on at once.
        """
        if user != self._user:
            self._user = user
            self._crowded = True
            now = monotonic()
            self._until = now + _ACTIVE_FOR
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
        """Let other callers have their turn in the middle of a long request."""
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
        """Begin the next turn: one waiting request of each caller goes on."""
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
    """A queue for something that one request at a time can use; callers take turns.

    The next request is of the caller whose requests have cost least since the caller came.
    Source: Goyal, Vin and Cheng, "Start-time fair queueing", 1996.

    Args:
        total: Requests that may use it or wait, of all callers.
        per_caller: The same for one caller.
        full: Returns the problem where the queue is full; its argument tells whether the bound of
            the caller was met, rather than that of all.
    """

    def __init__(self, total: int, per_caller: int, full: Callable[[bool], Exception]) -> None:
        self._total = total
        self._per_caller = per_caller
        self._full = full
        self._busy = False
        self._requests: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        #: Start-time fair queueing: the finish tag of each caller, and the virtual time. Seconds.
        self._finish: dict[str, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        """Return how many requests use it or wait."""
        return self._requests.total()

    async def enter(self, user: str, *, begun: bool = False) -> None:
        """Wait for the next turn of a caller; `leave` has to follow.

        Args:
            user: The caller.
            begun: Whether a part of the answer is sent already; such a request is never refused.

        Raises:
            Exception: The queue is full; made by `full`.
        """
        if not begun:
            if self._requests[user] >= self._per_caller:
                raise self._full(True)
            if len(self) >= self._total:
                raise self._full(False)
        self._requests[user] += 1
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
        """End a turn and begin the next one.

        Args:
            user: The caller whose turn ends.
            cost: Seconds that it took.
        """
        self._finish[user] = max(self._finish.get(user, 0.0), self._now) + cost
        self._count_out(user)
        while self._waiting:
            self._now, following = min((self._start(name), name) for name in self._waiting)
            futures = self._waiting[following]
            future = futures.popleft()
            if not futures:
                del self._waiting[following]
            if not future.done():
                future.set_result(None)
                if len(self._finish) > _REMEMBERED:
                    self._finish = {u: t for u, t in self._finish.items() if t > self._now}
                return
        self._busy = False
        self._finish.clear()
        self._now = 0.0

    def _start(self, user: str) -> float:
        return max(self._finish.get(user, 0.0), self._now)

    def _count_out(self, user: str) -> None:
        self._requests[user] -= 1
        if not self._requests[user]:
            del self._requests[user]
