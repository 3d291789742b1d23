"""Reads the store's files by plain SQL, one snapshot of all shards at a time.

Only columns that are named here are used, so a column more breaks nothing.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from xxhash import xxh3_64_digest

from tests.faults.kit.model import ENTRY, STATES, VERDICTS
from tests.faults.kit.validity import TYPES

DAY: Final = 86_400_000_000
EVERYBODY: Final = -1
_ENTRY: Final = struct.Struct("<8sqqBB")
_KEY: Final = struct.Struct("<q")
_JOBS: Final = (
    "SELECT id, audience, type, state, created_at, updated_at, started_at, ended_at, attempt, "
    "progress, bulk_id, tags, error, output, trail, spilled, row, source, writers FROM jobs"
)
_COUNTS: Final = ", ".join(STATES)


class Row(NamedTuple):
    """A job as the store has it."""

    id: str
    owner: str | None
    viewers: tuple[str, ...]
    kind: str | None
    state: str
    created: int
    updated: int
    started: int | None
    ended: int | None
    attempt: int
    progress: float | None
    bulk: str | None
    tags: dict[str, str]
    error: bytes | None
    output: bytes | None
    trail: bytes
    source: str
    writers: tuple[str, ...]


def unpack(trail: bytes) -> list[tuple[bytes, int, int, str, str, str]]:
    """Return a trail: key of the id, offset, time, type, state and verdict of each event."""
    return [
        (key, offset, time, TYPES[code >> 4], STATES[state], VERDICTS[code & 15])
        for key, offset, time, state, code in _ENTRY.iter_unpack(trail)
    ]


def hash_of(event_id: str) -> int:
    """Return the number by which a trail knows an event's id."""
    (number,) = _KEY.unpack(xxh3_64_digest(event_id.encode()))
    return int(number)


def apart_hash_of(apart: str) -> int:
    """Return the same of an event whose sender has no part in its job."""
    (number,) = _KEY.unpack(blake2b(apart.encode(), digest_size=8).digest())
    return int(number)


def packed(trail: Sequence[int]) -> bytes:
    """Return a model's trail as the store has it."""
    entries = []
    for n in range(0, len(trail), ENTRY):
        code = trail[n + 2]
        kind, state, verdict = code >> 8, code >> 4 & 15, code & 15
        key = _KEY.pack(trail[n + 3])
        entries.append(_ENTRY.pack(key, trail[n], trail[n + 1], state, kind << 4 | verdict))
    return b"".join(entries)


class Shard:
    """One file of a store, as it is at one instant."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @cached_property
    def _types(self) -> dict[int, str]:
        return dict(self._db.execute("SELECT type, name FROM types"))

    @cached_property
    def _audiences(self) -> dict[int, tuple[str, tuple[str, ...]]]:
        return {
            number: (owner, tuple(json.loads(viewers)))
            for number, owner, viewers in self._db.execute(
                "SELECT audience, owner, viewers FROM audiences"
            )
        }

    def position(self) -> dict[int, int]:
        """Return per partition the offset before which everything is applied."""
        return dict(self._db.execute("SELECT partition, next_offset FROM checkpoints"))

    def tallies(self) -> dict[int, dict[str, int]]:
        """Return per partition how its records were judged."""
        return {
            partition: dict(zip((*VERDICTS, "dead"), counts, strict=True))
            for partition, *counts in self._db.execute(
                'SELECT partition, applied, duplicate, late, not_allowed, "foreign", dead '
                "FROM checkpoints"
            )
        }

    def rows(self) -> Iterator[Row]:
        """Yield every job."""
        for found in self._db.execute(_JOBS):
            owner, viewers = self._audiences.get(found[1], (None, ()))
            trail = found[14]
            if found[15]:
                chunks = self._db.execute(
                    "SELECT trail FROM trail_chunks WHERE row=? ORDER BY first", (found[16],)
                )
                trail = b"".join(chunk for (chunk,) in chunks) + trail
            yield Row(
                found[0], owner, viewers, self._types.get(found[2]), STATES[found[3]],
                *found[4:11], json.loads(found[11] or "{}"), *found[12:14], trail,
                found[17], tuple(json.loads(found[18] or "[]")),
            )  # fmt: skip

    def counters(self) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """Return the counters that are not all 0: by audience, day and type."""
        found = {}
        statement = f"SELECT audience, day, type, {_COUNTS} FROM counters"
        for audience, day, kind, *counts in self._db.execute(statement):
            if any(counts):
                found[self._named(audience), day, self._types.get(kind)] = tuple(counts)
        return found

    def totals(self) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """Return everybody's totals that are not all 0: by type."""
        statement = f"SELECT type, {_COUNTS} FROM totals WHERE audience=?"
        return {
            (self._types.get(kind),): tuple(counts)
            for kind, *counts in self._db.execute(statement, (EVERYBODY,))
            if any(counts)
        }

    def _named(self, audience: int) -> tuple[str | None, tuple[str, ...]] | None:
        if audience == EVERYBODY:
            return None
        return self._audiences.get(audience, (None, ()))


@contextlib.contextmanager
def shards(folder: Path) -> Iterator[list[Shard]]:
    """Open every shard of a store, each as it is at one instant while the context is open."""
    with contextlib.ExitStack() as stack:
        opened = []
        for path in sorted(folder.glob("shard-*.db")):
            db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
            stack.callback(db.close)
            db.execute("PRAGMA query_only=ON")
            db.execute("BEGIN")
            # A transaction's instant is that of its first read.
            db.execute("SELECT count(*) FROM checkpoints").fetchone()
            opened.append(Shard(db))
        yield opened


def position(folder: Path) -> dict[int, int]:
    """Return what a store holds now; nothing where there is none that can be read."""
    try:
        with shards(folder) as opened:
            return {p: at for shard in opened for p, at in shard.position().items()}
    except sqlite3.Error:
        return {}
