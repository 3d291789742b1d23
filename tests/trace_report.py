"""The figures of a report on the Google trace, recomputed from the CSV's rows by plain Python.

No event, no fold, no SQL: it relies on what `tests.e2e.oracle` holds the trace to, that a job's
first row submits it and that a later submission follows a failure, and changes nothing by itself.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from jobtrail.core.partitions import partition_of

#: 2011-05-01T22:50:00Z
START = 1_304_290_200_000_000
STATES = ("created", "active", "retry", "completed", "failed", "cancelled", "expired")
ENDS = STATES[3:]
_KINDS = dict(
    enumerate(("created", "active", "retry", "failed", "completed", "cancelled", "expired"))
)
ALL = "(all types)"


class Change(NamedTuple):
    """A change of a job's state; times are microseconds."""

    job: str
    t: int
    before: str | None
    after: str
    attempt: int
    stay: int
    partition: int
    offset: int
    inside: bool


class Recomputed:
    """The figures of the rows of a CSV.

    Args:
        file: Of the trace.
        partitions: How many the log has that the rows were written to one by one.
        inside: Tells of a change's (t, partition, offset) whether it is in the range.
    """

    def __init__(
        self, file: Path, partitions: int, inside: Callable[[int, int, int], bool]
    ) -> None:
        self.changes: list[Change] = []
        self.types: dict[str, str] = {}
        self.owners: dict[str, str] = {}
        self.rows = self.ignored = 0
        submitted: Counter[str] = Counter()
        latest: dict[str, tuple[int, str]] = {}
        ends = [count() for _ in range(partitions)]
        with file.open(newline="") as lines:
            for time_us, job, kind, user, scheduling_class, _name in list(csv.reader(lines))[1:]:
                self.rows += 1
                partition = partition_of(job, partitions)
                offset, t = next(ends[partition]), START + int(time_us)
                submitted[job] += kind == "0"
                after = _KINDS.get(int(kind))
                if after is None:
                    continue
                before = latest.get(job)
                if before is not None and after == "created":
                    self.ignored += 1
                    continue
                self.types.setdefault(job, f"scheduling-class-{scheduling_class}")
                self.owners.setdefault(job, user)
                stay = 0 if before is None else t - before[0]
                state = None if before is None else before[1]
                self.changes.append(
                    Change(
                        *(job, t, state, after, submitted[job] - 1, stay, partition, offset),
                        inside(t, partition, offset),
                    )
                )
                latest[job] = (t, after)
        self.inside = [change for change in self.changes if change.inside]
        jobs = Counter(self.types.values())
        self.order = sorted(jobs, key=lambda name: (-jobs[name], name))

    def lives(self) -> dict[str, list[Change]]:
        found = defaultdict(list)
        for change in self.changes:
            found[change.job].append(change)
        return found

    # --- the figures, each as rows of values

    def totals(self) -> list[list[Any]]:
        ends = Counter(change.after for change in self.inside)
        last = Counter(life[-1].after for life in self.lives().values())
        arrived = sum(change.before is None for change in self.inside)
        opened = sum(last[state] for state in STATES[:3])
        found = [len(self.types), self.rows, self.ignored, arrived, len(self.inside)]
        return [[*found, *(ends[end] for end in ENDS), opened, 0]]

    def types_figure(self) -> list[list[Any]]:
        last = Counter((self.types[job], life[-1].after) for job, life in self.lives().items())
        jobs = Counter(self.types.values())
        return [[name, jobs[name], *(last[name, s] for s in STATES)] for name in self.order]

    def arrivals(self, begins: list[int], step: int) -> list[list[Any]]:
        found: Counter[Any] = Counter()
        for change in self.inside:
            begin = _bin(change.t, begins, step)
            found[begin, "arrived"] += change.before is None
            found[begin, change.after] += 1
        return [[b, found[b, "arrived"], *(found[b, e] for e in ENDS)] for b in begins]

    def flow(self, points: list[int]) -> list[list[Any]]:
        rows, stock, queue = [], Counter[str](), [*self.changes]
        queue.sort(key=lambda change: (change.inside, change.t))
        at = 0
        for number, point in enumerate(points):
            last = number == len(points) - 1
            while at < len(queue) and (
                not queue[at].inside or (number > 0 and (queue[at].t < point or last))
            ):
                stock[queue[at].after] += 1
                if (before := queue[at].before) is not None:
                    stock[before] -= 1
                at += 1
            rows.append([point, *(stock[state] for state in STATES)])
        return rows

    def _stays(self, which: str) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for change in self.inside:
            waited = change.before in ("created", "retry") and change.after == "active"
            if waited if which == "waiting" else change.before == "active":
                for name in (ALL, self.types[change.job]):
                    found[name].append(change.stay)
        return {name: sorted(found[name]) for name in (ALL, *self.order) if name in found}

    def percentiles(self, which: str) -> list[list[Any]]:
        rows = []
        for name, stays in self._stays(which).items():
            ranks = [stays[-(-len(stays) * p // 100) - 1] for p in (50, 90, 99, 100)]
            rows.append([name, len(stays), sum(stays) / 1e6, *(value / 1e6 for value in ranks)])
        return rows

    def distribution(self, which: str, spans: Iterable[tuple[str, float, float]]) -> list[int]:
        """How many stays are in each (job type, from, to); none may be outside of all."""
        stays = self._stays(which)
        found = [sum(a <= us / 1e6 < b for us in stays[name]) for name, a, b in spans]
        assert sum(found) == sum(map(len, stays.values()))
        return found

    def rates(self, begins: list[int], step: int) -> list[list[Any]]:
        counts: dict[int, list[int]] = {begin: [0, 0, 0, 0] for begin in begins}
        for change in self.inside:
            _rate(change, counts[_bin(change.t, begins, step)])
        rows = []
        for at, begin in enumerate(begins):
            around = [counts[b] for b in begins[max(at - 3, 0) : at + 4]]
            sums = [sum(values) for values in zip(*around, strict=True)]
            ended, failed, runs, retried = counts[begin]
            rates = [ended, failed, _share(failed, ended), _share(sums[1], sums[0])]
            rates += [runs, retried, _share(retried, runs), _share(sums[3], sums[2])]
            rows.append([begin, *rates])
        return rows

    def rates_by_type(self, middle: int) -> list[list[Any]]:
        counts: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for change in self.inside:
            for name in (ALL, self.types[change.job]):
                for half in ("whole", change.t > middle):
                    _rate(change, counts[name, half])
        rows = []
        for name in (ALL, *self.order):
            if (name, "whole") in counts:
                whole, first, second = (counts[name, half] for half in ("whole", False, True))
                row: list[Any] = [name]
                for of, some in ((0, 1), (2, 3)):
                    row += [whole[of], whole[some], *(_share(c[some], c[of]) for c in
                                                      (whole, first, second))]  # fmt: skip
                rows.append(row)
        return rows

    def slowest(self, listed: int) -> list[list[Any]]:
        rows = []
        for job, life in self.lives().items():
            if life[-1].inside and life[-1].after in ENDS:
                spent: Counter[str] = Counter()
                for change in life[1:]:
                    spent["ended" if change.before in ENDS else str(change.before)] += change.stay
                parts = [spent[phase] / 1e6 for phase in ("created", "retry", "active", "ended")]
                rows.append([*self._who(job, life), life[-1].t, *parts, spent.total() / 1e6])
        return sorted(rows, key=lambda row: (-row[-1], row[0]))[:listed]

    def oldest(self, listed: int, end: int) -> list[list[Any]]:
        rows = [
            [*self._who(job, life), life[-1].t, (end - life[0].t) / 1e6]
            for job, life in self.lives().items()
            if life[-1].after not in ENDS
        ]
        return sorted(rows, key=lambda row: (row[5], row[0]))[:listed]

    def _who(self, job: str, life: list[Change]) -> Iterator[Any]:
        last = life[-1]
        yield from (job, self.types[job], self.owners[job], last.after, last.attempt, life[0].t)

    def users(self, listed: int) -> list[list[Any]]:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for change in self.inside:
            own = found[self.owners[change.job]]
            own["arrived"] += change.before is None
            own[change.after] += 1
            own["running"] += change.stay if change.before == "active" else 0
        ranked = sorted(found, key=lambda u: (-found[u]["running"], -found[u]["arrived"], u))
        groups = [(user, found[user]) for user in ranked[:listed]]
        if rest := ranked[listed:]:
            groups.append((f"({len(rest)} others)", sum((found[u] for u in rest), Counter())))
        ran = sum(counts["running"] for counts in found.values())
        return [
            [name, counts["arrived"], *(counts[end] for end in ENDS), counts["running"] / 1e6,
             _share(counts["running"], ran)]
            for name, counts in groups
        ]  # fmt: skip


def _bin(t: int, begins: list[int], step: int) -> int:
    return begins[0] + (max(t, begins[0]) - begins[0]) // step * step


def _rate(change: Change, counts: list[int]) -> None:
    counts[0] += change.after in ENDS
    counts[1] += change.after == "failed"
    counts[2] += change.before == "active"
    counts[3] += change.before == "active" and change.after == "retry"


def _share(some: int, of: int) -> float | None:
    return some / of if of else None
