"""What of the past is written with a batch: how jobs changed, and what they were before.

A change takes a job out of one state and into another, at an effective time (see
`jobtrail.core.asof`) and at an offset: a summary of the past is a sum over changes. A job that was
said again to be another's, or of another kind, has a version for each that it has been.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from jobtrail.core.trail import APPLIED_CODES, raw_entries
from projections.postgres.arrays import insert, run, statement, unnest
from projections.postgres.connection import Connection
from projections.postgres.layout import NONE

_CHANGES: Final = insert(
    "changes",
    {
        "effective": "bigint",
        "at_offset": "bigint",
        "created_at": "bigint",
        "audience": "integer",
        "type": "integer",
        "partition": "smallint",
        "before": "smallint",
        "after": "smallint",
    },
)
_VERSIONS: Final = insert(
    "versions",
    {
        "row": "bigint",
        "id": "text",
        "audience": "integer",
        "type": "integer",
        "created_at": "bigint",
        "bulk_id": "text",
        "since": "bigint",
        "since_offset": "bigint",
        "until": "bigint",
        "until_offset": "bigint",
    },
)
_END: Final = {"row": "bigint", "until": "bigint", "until_offset": "bigint"}
_ENDS: Final = statement(
    "UPDATE versions SET until = new.until, until_offset = new.until_offset "  # noqa: S608
    f"FROM {unnest(_END)} WHERE versions.row = new.row AND versions.until_offset IS NULL",
    _END,
)


class Key(NamedTuple):
    """What a job is listed and counted by."""

    audience: int
    type: int
    created_at: int
    bulk_id: str | None


#: An effective time and an offset.
When = tuple[int, int]


class ChangeRows:
    """The changes of one partition's jobs."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._changes: list[tuple[int, ...]] = []
        self._versions: list[tuple[object, ...]] = []
        self._ends: list[tuple[int, int, int]] = []
        self._moved: list[int] = []

    def walk(
        self, added: bytes, state: int, time: int, keys: Sequence[Key], turns: Sequence[int]
    ) -> tuple[int, list[When]]:
        """Add the changes of one job, event by event.

        Args:
            added: What came to its trail.
            state: The code of the state that it had before; `NONE` for none.
            time: The effective time that it had reached before.
            keys: All that it was since the last commit, then what it is.
            turns: At which offsets it became each of them but the first.

        Returns:
            The time that it has reached; and when it became each other one.
        """
        begins: list[When] = []
        key = keys[0]
        for _key, offset, at, after, code in raw_entries(added):
            if at > time and code in APPLIED_CODES:
                time = at
            if len(begins) < len(turns) and offset == turns[len(begins)]:
                self._add(time, offset, key, state, NONE)
                state = NONE
                begins.append((time, offset))
                key = keys[len(begins)]
            if after != state:
                self._add(time, offset, key, state, after)
                state = after
        return time, begins

    def _add(self, time: int, offset: int, key: Key, before: int, after: int) -> None:
        self._changes.append(
            (time, offset, key.created_at, key.audience, key.type, self._partition, before, after)
        )

    def become(
        self, row: int, job_id: str, keys: Sequence[Key], begins: Sequence[When], first: When | None
    ) -> None:
        """Add what a job was and is.

        Args:
            row: The job's.
            job_id: Its id.
            keys: As of `walk`.
            begins: From `walk`.
            first: When the first of them began; None where that has a version already.
        """
        self._moved.append(row)
        if first is None:
            self._ends.append((row, *begins[0]))
            keys = keys[1:]
        else:
            begins = [first, *begins]
        ends = [*begins[1:], (None, None)]
        for key, begin, end in zip(keys, begins, ends, strict=True):
            self._versions.append((row, job_id, *key, *begin, *end))

    def write(self, connection: Connection) -> None:
        """Write them, inside the open transaction, when the jobs are written."""
        run(connection, _CHANGES, self._changes)
        if self._moved:
            run(connection, _ENDS, self._ends)
            run(connection, _VERSIONS, self._versions)
            connection.execute(
                "UPDATE jobs SET has_versions = true WHERE row = ANY(%s) AND NOT has_versions",
                (self._moved,),
            )


class Known(NamedTuple):
    """What the store has of jobs that became others."""

    #: The rows of those that have a version.
    versions: frozenset[int]
    #: By row, offset and time of the first event of those whose trails have chunks.
    first: dict[int, tuple[int, int]]
