"""The numbers that a shard gives to job types and audiences, as its one writer knows them."""

from __future__ import annotations

import orjson

from projections.sqlite.files.schema import NOBODY, Connection
from projections.sqlite.tables.rows import MAX_NAMES, MAX_NAMES_BYTES, size_of_names


class SurrogateKeys:
    """Gives numbers to names, inside of the transaction that first uses them.

    Args:
        db: The shard.
    """

    def __init__(self, db: Connection) -> None:
        self._db = db
        self.forget()

    def forget(self) -> None:
        """Forget everything: a transaction was undone, or the shard was filled anew."""
        self._types: dict[str | None, int] = {None: 0}
        self._audiences: dict[tuple[str | None, tuple[str, ...]], int] = {(None, ()): NOBODY}
        #: Audiences that have a number since `begin` and no row yet, and the last number given.
        self._fresh: list[tuple[int, str | None, str]] = []
        self._members: list[tuple[str, int]] = []
        self._last: int | None = None
        self._size = 0

    @property
    def count(self) -> int:
        """How many names are remembered."""
        return len(self._types) + len(self._audiences)

    def begin(self) -> None:
        """Begin a transaction."""
        if self.count > MAX_NAMES or self._size > MAX_NAMES_BYTES:
            self.forget()
        self._last = None

    def type(self, name: str | None) -> int:
        """Return the number of a job type."""
        number = self._types.get(name)
        if number is None:
            self._db.execute("INSERT OR IGNORE INTO types(name) VALUES(?)", (name,))
            row = self._db.execute("SELECT type FROM types WHERE name=?", (name,)).fetchone()
            number = self._types[name] = row[0]
            self._size += size_of_names(name)
        return number

    def audience(self, owner: str | None, viewers: tuple[str, ...]) -> int:
        """Return the number of an audience; what is written of a new one waits for `write`."""
        number = self._audiences.get((owner, viewers))
        if number is None:
            number = self._audiences[owner, viewers] = self._learn(owner, viewers)
            self._size += size_of_names(owner, *viewers)
        return number

    def _learn(self, owner: str | None, viewers: tuple[str, ...]) -> int:
        key = (owner, orjson.dumps(viewers).decode())
        known = self._db.execute(
            "SELECT audience FROM audiences WHERE owner=? AND viewers=?", key
        ).fetchone()
        if known is not None:
            return int(known[0])
        if self._last is None:
            (self._last,) = self._db.execute(
                "SELECT coalesce(max(audience), 0) FROM audiences"
            ).fetchone()
        self._last += 1
        self._fresh.append((self._last, *key))
        self._members += [(principal, self._last) for principal in {f"user:{owner}", *viewers}]
        return self._last

    def write(self) -> None:
        """Write all audiences that got a number."""
        if self._fresh:
            self._members.sort()
            self._db.executemany("INSERT INTO audiences VALUES(?, ?, ?)", self._fresh)
            self._db.executemany("INSERT INTO audience_members VALUES(?, ?)", self._members)
            self._fresh, self._members = [], []
