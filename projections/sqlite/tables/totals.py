"""Counters over all days, beside those per day, for audiences that have very many of these.

Without them the sum of a long history would read a row for each of its days. They move in the same
transaction as the counters per day. Audiences with few rows have none: adding up what they have
costs a reader less than keeping one more row for each of them would cost a projector.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence, Set
from operator import itemgetter
from typing import Final

import orjson

from jobtrail.core.states import STATES
from projections.sqlite.files.schema import Connection

#: Rows of an audience's counters from which on it has totals.
MANY: Final = 32
#: Whether an audience has so many rows is asked for one row in so many that move. Who is found late
#: is summed day by day meanwhile.
_ASKED: Final = 64
#: Where fewer audiences than one for so many rows have totals, they are sought among the rows.
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
    """Which audiences of a shard have totals: never fewer until the shard is filled anew.

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
        """Take up those that are new."""
        for number, audience in self._db.execute(self._ask, (self._last,)).fetchall():
            self.audiences.add(audience)
            self._last = number

    def clear(self) -> None:
        """Forget all: the shard was filled anew, or what was written is taken back."""
        self._last = 0
        self.audiences.clear()


class Totals:
    """Moves the totals of a shard.

    Args:
        db: Writes it.
    """

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._totalled = Totalled(db)
        self._turn = 0

    def forget(self) -> None:
        """Forget which audiences have totals."""
        self._totalled.clear()

    def move(self, rows: Sequence[Sequence[int]]) -> None:
        """Follow the counters, inside the open transaction.

        Args:
            rows: What was given to `counters.MOVE`, in the order of the audiences.
        """
        self._totalled.look()
        has = self._totalled.audiences
        self._db.executemany(_MOVE, [(row[0], *row[2:]) for row in _rows_of(has, rows)])
        # By turns, so that whoever moves with each transaction is asked for sooner or later.
        self._turn = (self._turn + 1) % _ASKED
        asked = {row[0] for row in rows[self._turn :: _ASKED]} - has
        if asked:
            values = {"audiences": orjson.dumps(list(asked)).decode(), "many": MANY}
            many = self._db.execute(_FIND, values).fetchall()
            self._db.executemany(_SUM_UP, many)
            self._db.executemany("INSERT INTO totalled(audience) VALUES(?)", many)


def _rows_of(audiences: Set[int], rows: Sequence[Sequence[int]]) -> Iterable[Sequence[int]]:
    """Return those rows, which are in the order of their audiences, that are of one of these."""
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
