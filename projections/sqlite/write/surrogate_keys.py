"""The numbers of a shard for job types and audiences, as its writer assigns them."""

from __future__ import annotations

import orjson

from projections.sqlite.files.schema import NOBODY, Connection
from projections.sqlite.tables.rows import MAX_NAMES, MAX_NAMES_BYTES, size_of_names


class SurrogateKeys:
    """Assigns numbers to names, in the transaction that first uses them.

    Args:
        db: The shard.
    """

    def __init__(self, db: Connection) -> None:
        self._db = db
        self.forget()

    def forget(self) -> None:
        """Clear the cache: a transaction was rolled back, or the shard has a new generation."""
        self._types: dict[str | None, int] = {None: 0}
        self._audiences: dict[tuple[str | None, tuple[str, ...]], int] = {(None, ()): NOBODY}
        #: Audiences that got a number since `begin` and have no row yet, and the last number.
        self._fresh: list[tuple[int, str | None, str]] = []
        self._members: list[tuple[str, int]] = []
        self._last: int | None = None
        self._size = 0

    @property
    def count(self) -> int:
        """How many names are cached."""
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
        """Return the number of an audience; the rows of a new one are written by `write`."""
        number = self._audiences.get((owner, viewers))
        if number is None:
            number = self._audiences[owner, viewers] = self._look_up(owner, viewers)
            self._size += size_of_names(owner, *viewers)
        return number

    def _look_up(self, owner: str | None, viewers: tuple[str, ...]) -> int:
        key = (owner, orjson.dumps(viewers).decode())
        found = self._db.execute(
            "SELECT audience FROM audiences WHERE owner=? AND viewers=?", key
        ).fetchone()
        if found is not None:
            return int(found[0])
        if self._last is None:
            (self._last,) = self._db.execute(
                "SELECT coalesce(max(audience), 0) FROM audiences"
            ).fetchone()
        self._last += 1
        self._fresh.append((self._last, *key))
        self._members += [(principal, self._last) for principal in {f"user:{owner}", *viewers}]
        return self._last

    def write(self) -> None:
        """Write the rows of all audiences that got a number since `begin`."""
        if self._fresh:
            self._members.sort()
            self._db.executemany("INSERT INTO audiences VALUES(?, ?, ?)", self._fresh)
            self._db.executemany("INSERT INTO audience_members VALUES(?, ?)", self._members)
            self._fresh, self._members = [], []
