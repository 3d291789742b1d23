"""Counts of the past in columns: totals of runs before a cut, and blocks of the others.

Nothing is read of a run that begins after the cut. Of the others, the totals are read where there
are some; otherwise the blocks of the caller's audiences, filtered by audience and cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from jobtrail.core.asof import Cut
from jobtrail.core.states import STATES
from projections.ports.read import Filters
from projections.sqlite.files.schema import DAY, EVERYBODY, Connection
from projections.sqlite.read.listing import Source
from projections.sqlite.tables.change_layout import (
    BLOCKS,
    CHANGE,
    DIRECTORY,
    NONE,
    OFFSETS,
    ChangeArray,
)
from projections.sqlite.tables.days import split_days

#: Blocks of 36 KiB that are in memory at a time.
_AT_ONCE: Final = 512
_SUMS: Final = ", ".join(f"sum({state})" for state in STATES)
#: Inclusive ranges of the creation time; None for all.
_Ranges = list[tuple[int, int]] | None


class _Run(NamedTuple):
    """A run that begins before the cut."""

    number: int
    directory: ChangeArray
    #: Whether all of it is before the cut, and there are totals for everybody.
    totalled: bool


class PastCounts:
    """Counts one shard's jobs as they were.

    Args:
        db: Reads the shard.
        source: What of it counts.
        filters: Whose bounds of the creation time count.
        cut: Up to where the log counts.
    """

    def __init__(self, db: Connection, source: Source, filters: Filters, cut: Cut) -> None:
        self._db = db
        self._shard = source.shard
        self._audiences = None if source.audiences is None else set(source.audiences)
        self._types = source.types
        self._cut = cut
        first, last = filters.created_from, filters.created_to
        self._days, self._edges = split_days(first, last)
        self._dated: _Ranges = None
        if first is not None or last is not None:
            low = np.iinfo(np.int64).min if first is None else first
            self._dated = [(int(low), 2**63 - 1 if last is None else last)]
        self._counts: dict[int, list[int]] = {}

    def count(self) -> Mapping[int, list[int]]:
        """Return the number of jobs by type and state."""
        runs = list(self._runs())
        whole = [run.number for run in runs if run.totalled]
        heavy = self._heavy(whole)
        read: dict[frozenset[int], list[int]] = {}
        for run in runs:
            without = heavy.get(run.number, frozenset())
            wanted = self._blocks(run, without) if EVERYBODY not in without else []
            read.setdefault(without, []).extend(wanted)
        for without, blocks in read.items():
            audiences = None if self._audiences is None else self._audiences - without
            self._add_changes(blocks, audiences, self._dated)
        if heavy:
            self._add_totals(heavy)
            if self._edges:
                self._add_edges(runs, heavy)
        return self._counts

    def _runs(self) -> Iterator[_Run]:
        instant, position = self._cut
        rows = self._db.execute(
            f"SELECT run, low, high, totalled, directory, offsets FROM {self._shard}.change_runs"  # noqa: S608
        )
        for number, low, high, totalled, directory, offsets in rows:
            if instant is not None:
                begins, ends = low <= instant, high <= instant
            else:
                found = np.frombuffer(offsets, OFFSETS).tolist()
                begins = any(first < position.get(p, 0) for p, first, _last in found)
                ends = all(last < position.get(p, 0) for p, _first, last in found)
            if begins:
                yield _Run(number, np.frombuffer(directory, DIRECTORY), bool(totalled) and ends)

    def _heavy(self, runs: list[int]) -> dict[int, frozenset[int]]:
        """Return by run those of the audiences whose changes there have totals."""
        audiences = (EVERYBODY,) if self._audiences is None else self._audiences
        found: dict[int, set[int]] = {}
        if runs:
            rows = self._db.execute(
                f"SELECT DISTINCT audience, run FROM {self._shard}.change_totals "  # noqa: S608
                "WHERE audience IN (SELECT value FROM json_each(?)) "
                "AND run IN (SELECT value FROM json_each(?))",
                (_json(audiences), _json(runs)),
            )
            for audience, run in rows:
                found.setdefault(run, set()).add(audience)
        return {run: frozenset(mine) for run, mine in found.items()}

    def _blocks(self, run: _Run, without: frozenset[int] = frozenset()) -> list[int]:
        """Return the blocks of a run in which any of the audiences lies, but for some."""
        directory = run.directory
        base = run.number * BLOCKS
        if self._audiences is None:
            return list(range(base, base + len(directory)))
        mine = np.array(sorted(self._audiences - without), "<i8")
        if not len(mine):
            return []
        at = np.searchsorted(mine, directory["first"])
        hit = mine[np.minimum(at, len(mine) - 1)] <= directory["last"]
        return (np.flatnonzero(hit & (at < len(mine))) + base).tolist()

    def _add_changes(self, blocks: list[int], audiences: set[int] | None, ranges: _Ranges) -> None:
        for at in range(0, len(blocks), _AT_ONCE):
            rows = self._db.execute(
                f"SELECT rows FROM {self._shard}.change_blocks "  # noqa: S608
                "WHERE block IN (SELECT value FROM json_each(?))",
                (_json(blocks[at : at + _AT_ONCE]),),
            )
            changes = np.frombuffer(b"".join(some for (some,) in rows), CHANGE)
            if audiences is not None:
                changes = changes[_among(changes["audience"], audiences)]
            asked = self._before_cut(changes)
            if ranges is not None:
                created = changes["created"]
                within = [(created >= low) & (created <= high) for low, high in ranges]
                asked &= reduce(np.logical_or, within)
            if self._types:
                asked &= _among(changes["type"], set(self._types))
            self._count(changes[asked])

    def _before_cut(self, changes: ChangeArray) -> NDArray[np.bool_]:
        instant, position = self._cut
        before: NDArray[np.bool_]
        if instant is not None:
            before = changes["effective"] <= instant
            return before
        ends = np.zeros(2**16, "<i8")
        for partition, end in position.items():
            ends[partition] = end
        before = changes["offset"] < ends[changes["partition"]]
        return before

    def _count(self, changes: ChangeArray) -> None:
        if not len(changes):
            return
        types = changes["type"].astype("<i8")
        size = (int(types.max()) + 1) * (NONE + 1)
        sums = np.bincount(types * (NONE + 1) + changes["after"], minlength=size)
        sums = sums - np.bincount(types * (NONE + 1) + changes["before"], minlength=size)
        by_type = sums.reshape(-1, NONE + 1)[:, :NONE]
        for job_type in np.flatnonzero(by_type.any(axis=1)).tolist():
            self._add(job_type, by_type[job_type].tolist())

    def _add(self, job_type: int, counts: Iterable[int]) -> None:
        before = self._counts.get(job_type, [0] * NONE)
        self._counts[job_type] = [a + b for a, b in zip(before, counts, strict=True)]

    def _add_totals(self, heavy: Mapping[int, frozenset[int]]) -> None:
        if self._days is None:
            return
        by_audience: dict[int, list[int]] = {}
        for run, audiences in heavy.items():
            for audience in audiences:
                by_audience.setdefault(audience, []).append(run)
        for audience, runs in by_audience.items():
            for job_type, *counts in self._db.execute(
                f"SELECT type, {_SUMS} FROM {self._shard}.change_totals WHERE audience=? "  # noqa: S608
                "AND run IN (SELECT value FROM json_each(?)) AND day BETWEEN ? AND ? "
                "GROUP BY type",
                (audience, _json(runs), *self._days),
            ).fetchall():
                if not self._types or job_type in self._types:
                    self._add(job_type, counts)

    def _add_edges(self, runs: list[_Run], heavy: Mapping[int, frozenset[int]]) -> None:
        """Add what totals don't contain: changes of jobs that were created on a part of a day."""
        days = {edge // DAY for of in self._edges for edge in of}
        for run in runs:
            mine = heavy.get(run.number)
            if mine is None:
                continue
            (touched,) = self._db.execute(
                f"SELECT EXISTS(SELECT 1 FROM {self._shard}.change_totals WHERE run=? "  # noqa: S608
                "AND audience IN (SELECT value FROM json_each(?)) "
                "AND day IN (SELECT value FROM json_each(?)))",
                (run.number, _json(mine), _json(days)),
            ).fetchone()
            if touched:
                audiences = None if EVERYBODY in mine else set(mine)
                others = frozenset() if audiences is None else frozenset(self._audiences or ())
                blocks = self._blocks(run, others - mine)
                self._add_changes(blocks, audiences, self._edges)


def _among(values: NDArray[np.int32], some: set[int]) -> NDArray[np.bool_]:
    if len(some) == 1:
        (one,) = some
        found: NDArray[np.bool_] = values == one
        return found
    return np.isin(values, np.array(list(some), "<i8"))


def _json(some: Iterable[int]) -> str:
    return orjson.dumps(list(some)).decode()
