"""The numbers that the store gives to job types and audiences: the same for all projectors.

A number is never taken back, so who knows one may keep it. New names are numbered in a transaction
of their own before the batch's: a projector that meets the same name waits for that short one only.
A name without a job does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import getsizeof
from typing import Final

import orjson

from jobtrail.core.job import Job
from projections.ports.read import Audience
from projections.postgres.arrays import insert, run
from projections.postgres.connection import Connection
from projections.postgres.layout import NOBODY, audience_key

#: About how many bytes of names a writer remembers.
_MOST_BYTES: Final = 32 * 1024 * 1024
_NAME_BYTES: Final = 160

_TYPES: Final = insert("types", {"name": "text"}, "ON CONFLICT DO NOTHING")
_AUDIENCES: Final = insert(
    "audiences", {"key": "bytea", "owner": "text", "viewers": "text"}, "ON CONFLICT DO NOTHING"
)
_MEMBERS: Final = insert(
    "audience_members", {"principal": "text", "audience": "integer"}, "ON CONFLICT DO NOTHING"
)


class Names:
    """The numbers that a writer knows."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget all: another store may be in the place of the one that gave them."""
        self._types: dict[str | None, int] = {None: 0}
        self._audiences: dict[Audience, int] = {(None, ()): NOBODY}
        self._size = 0

    def type(self, job: Job) -> int:
        """Return the number of a job's type, once it was learned."""
        return self._types[job.job_type]

    def audience(self, job: Job) -> int:
        """Return the number of a job's audience, once it was learned."""
        return self._audiences[job.owner, job.viewers]

    def learn(self, connection: Connection, jobs: Iterable[Job]) -> None:
        """Learn the numbers of these jobs' names, and give numbers to those that have none.

        Args:
            connection: No transaction is open on it.
            jobs: Any; what they say is remembered until `learn` is called the next time.
        """
        if self._size > _MOST_BYTES:
            self.forget()
        types: set[str] = set()
        audiences: set[Audience] = set()
        for job in jobs:
            if job.job_type not in self._types and job.job_type is not None:
                types.add(job.job_type)
            if (job.owner, job.viewers) not in self._audiences:
                audiences.add((job.owner, job.viewers))
        if types:
            self._learn_types(connection, sorted(types))
        if audiences:
            self._learn_audiences(connection, {audience_key(*one): one for one in audiences})

    def _learn_types(self, connection: Connection, names: list[str]) -> None:
        find = b"SELECT name, type FROM types WHERE name = ANY(%s)"
        found: dict[str, int] = dict(connection.execute(find, (names,)).fetchall())
        # In order, here and below: two that meet the same names wait for each other in one way.
        run(connection, _TYPES, [(name,) for name in names if name not in found])
        if len(found) < len(names):
            found = dict(connection.execute(find, (names,)).fetchall())
        self._types.update(found)
        self._size += sum(_NAME_BYTES + getsizeof(name) for name in names)

    def _learn_audiences(self, connection: Connection, asked: dict[bytes, Audience]) -> None:
        keys = sorted(asked)
        find = b"SELECT key, audience FROM audiences WHERE key = ANY(%s)"
        found: dict[bytes, int] = dict(connection.execute(find, (keys,)).fetchall())
        new = [key for key in keys if key not in found]
        if new:
            with connection.transaction():
                run(connection, _AUDIENCES, [_audience_row(key, asked[key]) for key in new])
                found |= dict(connection.execute(find, (new,)).fetchall())
                members = [
                    (principal, found[key])
                    for key in new
                    for principal in {f"user:{asked[key][0]}", *asked[key][1]}
                ]
                run(connection, _MEMBERS, sorted(members))
        for key, number in found.items():
            owner, viewers = asked[key]
            self._audiences[owner, viewers] = number
            self._size += _NAME_BYTES + sum(map(getsizeof, (owner, *viewers)))


def _audience_row(key: bytes, audience: Audience) -> tuple[bytes, str | None, str]:
    owner, viewers = audience
    return key, owner, orjson.dumps(viewers).decode()
