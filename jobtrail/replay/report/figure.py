"""What a figure of a report is: a small table, and what its columns hold."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from jobtrail.core.events import from_microseconds
from jobtrail.core.states import State
from jobtrail.replay.report.changes import Changes

Kind = Literal["text", "count", "seconds", "share", "instant"]
Value = str | int | float | None


class Column(NamedTuple):
    """A column: its name in files, its heading for people, and what its values are.

    `instant` values are microseconds since 1970, `seconds` seconds, `share` fractions of 1.
    """

    name: str
    heading: str
    kind: Kind = "count"


class Figure(NamedTuple):
    """One table of a report."""

    name: str
    columns: tuple[Column, ...]
    rows: list[tuple[Value, ...]]

    def column(self, name: str) -> list[Value]:
        """Return a column's values."""
        at = [column.name for column in self.columns].index(name)
        return [row[at] for row in self.rows]

    def numbers(self, name: str) -> list[float]:
        """Return a column's values as numbers; NaN where there is none."""
        return [float("nan") if value is None else float(value) for value in self.column(name)]


#: The states that end a job, in the order of the columns; and as SQL has them.
ENDS: Final = (State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED)
ENDED: Final = "('completed', 'failed', 'cancelled', 'expired')"
#: Which changes end a wait, and a run.
WAITED: Final = "from_state IN ('created', 'retry') AND to_state = 'active'"
RAN: Final = "from_state = 'active'"
TYPE: Final = Column("job_type", "Job type", "text")
END_COLUMNS: Final = tuple(Column(str(end), end.capitalize()) for end in ENDS)
#: How many changes led to each of the ends.
ENDS_COUNTED: Final = ", ".join(f"count(*) FILTER (to_state = '{end}') AS {end}" for end in ENDS)


def ask(changes: Changes, sql: str) -> list[tuple[Value, ...]]:
    """Return the rows of a query."""
    return changes.connection.execute(sql).fetchall()


def plain(column: Column, value: Value) -> Value:
    """Return a value as files have it: instants in ISO 8601, everything else as it is."""
    if column.kind == "instant" and value is not None:
        return from_microseconds(int(value)).isoformat().replace("+00:00", "Z")
    return value
