"""What a reader does where offsets are missing that nothing accounts for.

Control records, aborted transactions and what compaction took out are no holes: the log itself
accounts for them. What it lost is one, and so is what an archive does not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from jobtrail.core.errors import LogGapError

_SKIP: Final = "To go on behind the hole, say --skip-holes."


class Hole(NamedTuple):
    """Offsets of one partition that are missing, both included."""

    partition: int
    first: int
    last: int


class Holes:
    """Stops at a hole, or passes over it and says so.

    Args:
        told: Is told of each hole once, in words; None: a hole is an error.
    """

    def __init__(self, told: Callable[[str], None] | None = None) -> None:
        self._told = told
        #: Those that were passed over.
        self.passed: set[Hole] = set()

    def meet(self, hole: Hole, what: str, *, found: str, hint: str, where: str = "") -> None:
        """Pass over a hole.

        Args:
            hole: What is missing.
            what: One sentence that says so.
            found: What is there instead.
            hint: What to do about it, beside passing over.
            where: What else says where, before the partition.

        Raises:
            LogGapError: Nobody said that holes are passed over.
        """
        partition, first, last = hole
        error = LogGapError(
            what,
            where=f"{where}partition {partition}, offsets {first} to {last}",
            expected=f"every offset from {first} on",
            found=found,
            hint=f"{hint} {_SKIP}",
        )
        if self._told is None:
            raise error
        if hole not in self.passed:
            self.passed.add(hole)
            self._told(f"skipped: {what} Where: {error.where}. Found: {found}.")

    def within(self, range_: Hole) -> list[Hole]:
        """Return what of a range was passed over, in order."""
        partition, first, last = range_
        return sorted(
            Hole(partition, max(hole.first, first), min(hole.last, last))
            for hole in self.passed
            if hole.partition == partition and hole.first <= last and hole.last >= first
        )
