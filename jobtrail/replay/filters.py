"""Which jobs are wanted, by what they are at the end of what is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from jobtrail.core.job import Job
from jobtrail.core.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Chooses jobs; what is empty lets all of them through, and all that is given must hold."""

    #: Owners.
    users: tuple[str, ...] = ()
    job_types: tuple[str, ...] = ()
    bulk_ids: tuple[str, ...] = ()
    job_ids: tuple[str, ...] = ()
    states: tuple[State | str, ...] = ()
    #: All of them must match.
    tags: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Tell whether anything is asked for."""
        return bool(
            self.users
            or self.job_types
            or self.bulk_ids
            or self.job_ids
            or self.states
            or self.tags
        )

    @property
    def ids_only(self) -> bool:
        """Whether jobs are chosen by nothing but their ids, which each event tells."""
        return bool(self.job_ids) and not replace(self, job_ids=())

    def keep(self, jobs: pa.RecordBatch) -> pa.BooleanArray:
        """Return which rows of `schemas.JOBS` are wanted."""
        kept = pa.repeat(pa.scalar(True), len(jobs))
        for name, wanted in (
            ("owner", self.users),
            ("job_type", self.job_types),
            ("bulk_id", self.bulk_ids),
            ("id", self.job_ids),
            ("state", [str(state) for state in self.states]),
        ):
            if wanted:
                found = pc.is_in(jobs.column(name), value_set=pa.array(wanted, pa.string()))
                kept = pc.and_(kept, found)
        if self.tags:
            kept = pc.and_(kept, pa.array(self._tagged(jobs.column("tags").to_pylist())))
        return kept

    def matches(self, job: Job) -> bool:
        """Tell whether a job is wanted, as it is now: the same rule as of `keep`."""
        return (
            (not self.users or job.owner in self.users)
            and (not self.job_types or job.job_type in self.job_types)
            and (not self.bulk_ids or job.bulk_id in self.bulk_ids)
            and (not self.job_ids or job.id in self.job_ids)
            and (not self.states or job.state in self.states)
            and self.tags.items() <= job.tags.items()
        )

    def _tagged(self, tags: Iterable[list[tuple[str, str]] | None]) -> list[bool]:
        wanted = self.tags.items()
        return [wanted <= dict(pairs or ()).items() for pairs in tags]
