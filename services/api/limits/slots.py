"""Bounds of the requests that wait for a bulk, for each caller and for the process."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from services.api.problems.problems import too_many_waits


class Slots:
    """Counts requests that wait for a bulk, from when they begin to wait until they answer.

    At first, and between two reads of the bulk, such a request waits for no job in particular. So
    it is not always counted among the waits for jobs.

    Args:
        total: Requests that may wait.
        per_caller: The same for one caller.
    """

    def __init__(self, total: int, per_caller: int) -> None:
        self._total = total
        self._per_caller = per_caller
        self._waiting: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many requests wait."""
        return self._waiting.total()

    @contextlib.contextmanager
    def take(self, user: str) -> Iterator[None]:
        """Count a request while it waits.

        Args:
            user: Who sent it.

        Raises:
            Problem: 429 where as many as allowed wait.
        """
        if len(self) >= self._total:
            raise too_many_waits("This process has as many open waits for bulks as allowed.")
        if self._waiting[user] >= self._per_caller:
            raise too_many_waits(
                f"You have {self._per_caller} open waits for bulks, as many as allowed."
            )
        self._waiting[user] += 1
        try:
            yield
        finally:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                del self._waiting[user]
