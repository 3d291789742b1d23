"""Counters over all days, beside those per day, for audiences with very many rows of these.

Without them the sum of a long history would read a row for each of its days. They are updated in
the same transaction as the counters per day. Audiences with few rows have none: their sum costs a
reader less than one more row for each of them would cost a projector.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence, Set
from operator import itemgetter
from typing import Final

import orjson

from jobtrail.core.states import STATES
from projections.sqlite.files.schema import Connection

#: Audiences with at least so many rows of counters have totals.
MANY: Final = 32
#: The rows of an audience are counted for one in so many rows that are updated. Until an audience
#: is found, its counters are summed day by day.
_ASKED: Final = 64
#: Where fewer audiences than one per so many rows have totals, they are looked up by bisection.
_SOUGHT: Final = 64

_MOVE: Final = (
    f"INSERT INTO totals(audience, type, {', '.join(STATES)}) "
    f"VALUES({', '.join('?' * (2 + len(STATES)))}) "
    "ON CONFLICT DO UPDATE SET " + ", ".join(f"{s}={s}+excluded.{s}" for s in STATES)
)
_FIND: Final = (
    "SELECT audience FROM counters WHERE audience IN (SELECT value FROM json_each(:audiences)) "
    "GROUP BY audience HAVING count(*) >= :many"
)
_SUMS: Final = ", ".join(f"sum({state})" for state in STATES)
_SUM_UP: Final = (
    f"INSERT INTO totals SELECT audience, type, {_SUMS} "  # noqa: S608
    "FROM counters WHERE audience=? GROUP BY type"
)


class Totalled:
    """The audiences of a shard that have totals; only added to within a generation of the shard.

    Args:
        db: Reads the shard.
        shard: Its name in that connection.
    """

    def __init__(self, db: Connection, shard: str = "main") -> None:
        self._db = db
        self._ask = f"SELECT number, audience FROM {shard}.totalled WHERE number>?"  # noqa: S608
        self._last = 0
        #: About 60 bytes each. Not to be changed by others.
        self.audiences: set[int] = set()

    def look(self) -> None:
        """Read those that are new."""
        for number, audience in self._db.execute(self._ask, (self._last,)).fetchall():
            self.audiences.add(audience)
            self._last = number

    def clear(self) -> None:
        """Clear the cache: the shard has a new generation, or a transaction was rolled back."""
        self._last = 0
        self.audiences.clear()


class Totals:
    """Updates the totals of a shard.

    Args:
        db: Writes it.
    """

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._totalled = Totalled(db)
        self._turn = 0

    def forget(self) -> None:
        """Clear the cache of audiences that have totals."""
        self._totalled.clear()

    def move(self, rows: Sequence[Sequence[int]]) -> None:
        """Update totals along with the counters, inside the open transaction.

        Args:
            rows: The values for `counters.MOVE`, in the order of the audiences.
        """
        self._totalled.look()
        has = self._totalled.audiences
        self._db.executemany(_MOVE, [(row[0], *row[2:]) for row in _rows_of(has, rows)])
        # In turns, so that each audience that is updated often is counted sooner or later.
        self._turn = (self._turn + 1) % _ASKED
        asked = {row[0] for row in rows[self._turn :: _ASKED]} - has
        if asked:
            values = {"audiences": orjson.dumps(list(asked)).decode(), "many": MANY}
            many = self._db.execute(_FIND, values).fetchall()
            self._db.executemany(_SUM_UP, many)
            self._db.executemany("INSERT INTO totalled(audience) VALUES(?)", many)


def _rows_of(audiences: Set[int], rows: Sequence[Sequence[int]]) -> Iterable[Sequence[int]]:
    """Return the rows of these audiences; the rows are in the order of their audiences."""
    if len(audiences) * _SOUGHT >= len(rows):
        return [row for row in rows if row[0] in audiences]
    whose = itemgetter(0)
    return [
        row
        for audience in sorted(audiences)
        for row in rows[
            bisect_left(rows, audience, key=whose) : bisect_right(rows, audience, key=whose)
        ]
    ]
