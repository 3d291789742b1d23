"""The events that figures are measured with: made up, but the same ones every time.

Jobs are interleaved as in a busy log: a set number of them is under way, whose next event is
drawn at random, and a job that ends makes room for the next one to begin. All about a job follows
from the seed and its number, so who asks for it later need not have seen it being made.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, NamedTuple

#: What a job goes through in the figures that catch up.
WHOLE_LIFE: Final = ("created", "active", "retry", "completed")
#: Owns every `big_every`-th job of a load.
BIG_OWNER: Final = "big-owner"

#: The time of a load's first event.
BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
_TYPES: Final = ("bulkPolicy", "export", "healthCheck", "schemaDetection")
_TEAMS: Final = 50
_JOBS_PER_BULK: Final = 40


class Job(NamedTuple):
    """What is made up of one job."""

    number: int
    id: str
    owner: str
    job_type: str
    bulk: str
    #: Every fourth job may be seen by its owner's team too.
    team: str | None


@dataclass(frozen=True)
class Load:
    """A made-up log.

    Attributes:
        jobs: How many jobs there are.
        owners: How many users own them.
        under_way: How many jobs are under way at a time, once there are so many.
        life: The types of a job's events, in order.
        big_every: Every such job belongs to `BIG_OWNER`; 0: none does.
        days: Over how many days the events' times are spread.
        seed: Another one makes up other jobs in another order.
    """

    jobs: int
    owners: int = 10_000
    under_way: int = 20_000
    life: tuple[str, ...] = WHOLE_LIFE
    big_every: int = 0
    days: float = 30.0
    seed: int = 2011

    @property
    def events(self) -> int:
        """How many events there are."""
        return self.jobs * len(self.life)

    @property
    def name(self) -> str:
        """A name that no other load has."""
        told = repr(sorted(asdict(self).items())).encode()
        return f"load-{self.events}-{blake2b(told, digest_size=4).hexdigest()}"

    def job(self, number: int) -> Job:
        """Make up a job."""
        digest = blake2b(b"%d %d" % (self.seed, number), digest_size=24)
        text = digest.hexdigest()
        big = self.big_every > 0 and number % self.big_every == 0
        owner = 0 if big else int(text[32:], 16) % self.owners
        return Job(
            number=number,
            id=f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:32]}",
            owner=BIG_OWNER if big else f"user-{owner:05}",
            job_type=_TYPES[number % len(_TYPES)],
            bulk=f"bulk-{number // _JOBS_PER_BULK}",
            team=f"group:team-{owner % _TEAMS:02}" if number % 4 == 3 else None,
        )

    def value(self, job: Job, step: int, time: datetime) -> bytes:
        """Return a job's event as a CloudEvent in JSON.

        Args:
            job: Whose.
            step: The event's place in `life`.
            time: When it happened.
        """
        kind = self.life[step]
        if kind == "created":
            viewers = f'"viewers":["{job.team}"],' if job.team is not None else ""
            data = (
                f'{{"jobType":"{job.job_type}","owner":"{job.owner}","bulkId":"{job.bulk}",'
                f'{viewers}"tags":{{"tenant":"tenant-{job.number % 7}"}}}}'
            )
        elif kind == "active":
            data = f'{{"attempt":0,"worker":"worker-{job.number % 100:02}.pool-a.example"}}'
        elif kind == "retry":
            data = '{"attempt":0,"error":{"code":504,"message":"the warehouse gave no answer"}}'
        else:
            data = (
                f'{{"output":{{"rows":{job.number * 37 % 100_000},"seconds":{job.number % 60},'
                f'"table":"warehouse.t{job.number % 1000}"}}}}'
            )
        return (
            f'{{"specversion":"1.0","id":"{job.id}-{step}","source":"//benchmarks.example/load",'
            f'"type":"job.{kind}","subject":"{job.id}",'
            f'"time":"{time.isoformat(timespec="milliseconds")[:-6]}Z",'
            f'"datacontenttype":"application/json","data":{data}}}'
        ).encode()

    def steps(self) -> Iterator[tuple[Job, int]]:
        """Draw which job's which event comes next.

        Yields:
            The job, and the place of its event in `life`, which has two or more.
        """
        draw = random.Random(self.seed).random
        last = len(self.life) - 1
        coming = (self.job(number) for number in range(self.jobs))
        under_way: list[tuple[Job, int]] = []
        for job in itertools.islice(coming, self.under_way):
            yield job, 0
            under_way.append((job, 1))
        while under_way:
            at = int(draw() * len(under_way))
            job, step = under_way[at]
            yield job, step
            if step < last:
                under_way[at] = (job, step + 1)
                continue
            following = next(coming, None)
            if following is None:
                under_way[at] = under_way[-1]
                under_way.pop()
            else:
                yield following, 0
                under_way[at] = (following, 1)

    def records(self) -> Iterator[tuple[str, bytes]]:
        """Make up the log: job ids and events, with times that are spread over its days."""
        between = timedelta(days=self.days) / self.events
        for number, (job, step) in enumerate(self.steps()):
            yield job.id, self.value(job, step, BEGIN + number * between)

    def as_parameters(self) -> dict[str, Any]:
        """Return what is written down of it."""
        return {"events": self.events, **asdict(self)}
