"""What a verification has found: counted in full, listed up to a limit."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from jobtrail.core.position import format_position

#: Characters of a value that are listed.
_SHOWN: Final = 200


class Difference(NamedTuple):
    """One difference between the store and the fold of its log."""

    #: `row`, `trail`, `change`, `incarnation`, `counter`, `total`, `audience`, `type`, `run`,
    #: `checkpoint`, `tally` or `file`.
    kind: str
    #: A job's id, or which partition, shard, counter or run.
    where: str
    field: str
    expected: str
    found: str


class Report:
    """What a verification has found.

    Args:
        limit: How many differences are listed; all are counted.
        sample: One job in so many was compared.
    """

    def __init__(self, limit: int, sample: int) -> None:
        self._limit = limit
        self.sample = sample
        #: Per partition the offset at which the store was verified, and the mark before it.
        self.position: dict[int, int] = {}
        self.marks: dict[int, int] = {}
        #: Records of the log that were read, and jobs that were compared.
        self.records = 0
        self.jobs = 0
        #: Jobs that began before the log's beginning: they can't be folded any more.
        self.not_comparable = 0
        self.differences: list[Difference] = []
        self.count = 0
        #: How long it took.
        self.seconds = 0.0

    def differ(self, kind: str, where: str, field: str, expected: Any, found: Any) -> None:
        """Note a difference."""
        self.count += 1
        if len(self.differences) < self._limit:
            self.differences.append(Difference(kind, where, field, _said(expected), _said(found)))

    def as_json(self) -> dict[str, Any]:
        """Return it for a machine."""
        return {
            "equal": not self.count,
            "position": format_position(self.position, self.marks),
            "sample": self.sample,
            "records": self.records,
            "jobs": self.jobs,
            "notComparable": self.not_comparable,
            "differences": self.count,
            "listed": [difference._asdict() for difference in self.differences],
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> list[str]:
        """Return it for a person."""
        found = [
            f"{d.kind} {d.where}: {d.field}: expected {d.expected}, found {d.found}"
            for d in self.differences
        ]
        if self.count > len(self.differences):
            found.append(f"... and {self.count - len(self.differences):,} more")
        sampled = "" if self.sample == 1 else f" (one in {self.sample})"
        found.append(
            f"{self.count:,} differences: {self.jobs:,} jobs{sampled}, {self.records:,} records of "
            f"the log, {self.seconds:.1f} s"
        )
        if self.not_comparable:
            found.append(
                f"{self.not_comparable:,} jobs were not compared: they began before the log's "
                "beginning"
            )
        found.append(f"position {format_position(self.position, self.marks)}")
        return found


def _said(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
