"""How long the service is patient with what, and how much of it one caller may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from time import monotonic
from typing import NamedTuple

from jobtrail.settings import Settings
from services.api.problems.problems import too_many_requests


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Not settings: clients rely on these figures. Tests make them shorter."""

    #: Between two signs of life of a wait whose answer is not there yet: no proxy cuts it.
    sign_of_life: float = 15.0
    #: How long an id that is unknown holds a wait, its first event may still be under way.
    unknown: float = 5.0
    #: How long a read waits for the projections to hold what its client wrote.
    position: float = 5.0
    #: In which time a client has to take a part of its answer that does not fit on the way to it.
    answer: float = 30.0
    #: Between two looks at the projections' checkpoints while somebody needs to know them.
    poll: float = 0.05
    #: The same while a request is waiting for them.
    eager_poll: float = 0.005
    #: Between two attempts to reach the log.
    reconnect: float = 1.0
    #: How long after its last answer the log counts as there; after twice as long, the tail
    #: connects anew.
    silence: float = 5.0
    #: How long after its last answer the log is taken to hold nothing more: its long polls end
    #: every half second. What is not found after that may be there.
    certain: float = 2.0
    #: Between two proofs that the tail's log is still the same one where no connection broke.
    prove: float = 5.0
    #: Between two fetches of a provider's keys, whatever tokens come.
    refetch: float = 10.0
    #: How old a provider's keys get before they are fetched anew.
    refresh: float = 3600.0
    #: How long a provider's server may take to give its keys.
    provider: float = 5.0
    #: After how long a provider's token is verified anew: its key may be gone.
    reverify: float = 600.0
    #: Between two looks whether the file of the API keys has changed.
    keys_check: float = 1.0


class Bounds(NamedTuple):
    """How large requests may be and how long they may take, from the settings."""

    #: Bytes.
    body: int
    #: Seconds for a body to arrive.
    read_timeout: float
    #: Seconds for the head of a request to arrive.
    idle_timeout: float
    connections: int

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """Return the bounds of a process."""
        return cls(
            settings.max_body_bytes,
            settings.read_timeout,
            settings.idle_timeout,
            settings.max_connections,
        )


class Rate:
    """Shares out requests: a bucket of tokens for each user.

    A bucket is kept as the one instant at which it will be full again (the generic cell rate
    algorithm). One that is full by now need not be kept, so all of them are in two dictionaries
    that take turns: what has not been touched for as long as a bucket takes to fill is dropped
    with the older one, and no user gains by it.

    Args:
        rate: Requests a second that one user may send in the long run.
        burst: Requests that they may send at once after a rest.
        clock: Seconds that only grow.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._interval = 1 / rate
        self._span = burst / rate
        self._full_at: dict[str, float] = {}
        self._older: dict[str, float] = {}
        self._turn_at = clock() + self._span

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._full_at) + len(self._older)

    def charge(self, user: str, requests: float) -> None:
        """Count what a request has cost beyond one, as far as there is any left.

        Args:
            user: Whose request.
            requests: What it cost, in requests.
        """
        now = self._clock()
        full_at = max(self._full_at.get(user) or self._older.get(user, now), now)
        self._full_at[user] = min(full_at + requests * self._interval, now + self._span)

    def take(self, user: str) -> None:
        """Count a request.

        Raises:
            Problem: 429, with the time after which there is room again; it is not counted.
        """
        now = self._clock()
        if now >= self._turn_at:
            self._older = {} if now >= self._turn_at + self._span else self._full_at
            self._full_at = {}
            self._turn_at = now + self._span
        full_at = self._full_at.get(user)
        if full_at is None:
            full_at = self._older.get(user, now)
        full_at = max(full_at, now) + self._interval
        # Sums of intervals are not exact: a thousandth of one is nobody's request.
        beyond = full_at - now - self._span - self._interval / 1000
        if beyond > 0:
            raise too_many_requests(ceil(beyond))
        self._full_at[user] = full_at
