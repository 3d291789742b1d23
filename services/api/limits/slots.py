"""Places for requests that are held: so many for one caller, and so many for all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from services.api.problems.problems import too_many_waits


class Slots:
    """Counts requests that are held for a bulk, from when they begin to wait until they answer.

    What they wait for at first, or between two looks, is no job, so they are no wait for jobs.

    Args:
        total: Requests that may be held.
        per_caller: The same for one caller.
    """

    def __init__(self, total: int, per_caller: int) -> None:
        self._total = total
        self._per_caller = per_caller
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many requests are held."""
        return self._held.total()

    @contextlib.contextmanager
    def take(self, user: str) -> Iterator[None]:
        """Have a place while a request is held.

        Args:
            user: Whose.

        Raises:
            Problem: 429 where there is none left.
        """
        if len(self) >= self._total:
            raise too_many_waits("This process holds as many waits for bulks as it may.")
        if self._held[user] >= self._per_caller:
            raise too_many_waits(
                f"You hold as many waits for bulks as you may: {self._per_caller}."
            )
        self._held[user] += 1
        try:
            yield
        finally:
            self._held[user] -= 1
            if not self._held[user]:
                del self._held[user]
