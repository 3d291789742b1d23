"""The limits of one read of a store."""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time


class TooLong(Exception):
    """A read was ended because it would have exceeded its limits."""


class Meter:
    """Ends reads of one reader that exceed their limits; used as a context, in which they apply.

    Args:
        steps: The store's own steps, such as those of SQLite's virtual machine: some 30 ns each.
        rows: Bytes of the rows that a read may return.
        audiences: How many audiences a read may merge, per shard.
        every: Steps between two checks.
        seconds: Processor time, in seconds, that a read may take after the first check: where pages
            are far apart, a step takes many times as long as others.
    """

    __slots__ = (
        "_left", "_seconds", "_ticks", "_until", "active", "audiences", "every", "is_over", "rows",
    )  # fmt: skip

    def __init__(
        self,
        steps: int,
        *,
        rows: int,
        audiences: int,
        every: int = 2_000,
        seconds: float = float("inf"),
    ) -> None:
        self.every = every
        self.rows = rows
        self.audiences = audiences
        self._ticks = max(1, steps // every)
        self._left = 0
        self._seconds = seconds
        #: When a read has to end, by the thread's clock; 0 before the first check.
        self._until = 0.0
        #: Whether the limits apply at the moment.
        self.active = False
        #: Tells whether a read is to end for another reason, such as that nobody waits for it.
        self.is_over: Callable[[], bool] = _never

    def __enter__(self) -> None:
        self._left = self._ticks
        self._until = 0.0
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False

    def tick(self) -> bool:
        """Count some steps; return whether the read has to end."""
        self._left -= 1
        return self.active and (self._left < 0 or self._has_taken_long() or self.is_over())

    def _has_taken_long(self) -> bool:
        now = thread_time()
        if not self._until:
            self._until = now + self._seconds
        return now > self._until


def _never() -> bool:
    return False
