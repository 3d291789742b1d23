"""Timeouts, bounds of requests, and the request rate of each user."""

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
    """Timeouts and intervals in seconds. No settings, since clients rely on them."""

    #: Between two line feeds that an open wait sends, so that no proxy closes its connection.
    sign_of_life: float = 15.0
    #: How long a wait stays open for an unknown id, whose first event may not be in the log yet.
    unknown: float = 5.0
    #: How long a read waits for the projections to reach the position that its client names.
    position: float = 5.0
    #: How long a client has to read a part of an answer that does not fit into socket buffers.
    answer: float = 30.0
    #: Between two reads of the projections' checkpoints while records are buffered.
    poll: float = 0.05
    #: The same while a request waits for a checkpoint or a listener is connected.
    eager_poll: float = 0.005
    #: Between two attempts to connect to Kafka.
    reconnect: float = 1.0
    #: How long after its last answer the log counts as up; after twice as long, the tail connects
    #: again.
    silence: float = 5.0
    #: How long after its last answer the tail is taken to have read the log to its end: Kafka's
    #: long polls end every half second. Later, a job that is not found may be in the log.
    certain: float = 2.0
    #: Between two checks that the log is still the same one, while no connection breaks.
    prove: float = 5.0
    #: At least, between two fetches of a provider's keys.
    refetch: float = 10.0
    #: Age of a provider's keys after which they are fetched again.
    refresh: float = 3600.0
    #: How long a provider's server may take to send its keys.
    provider: float = 5.0
    #: After how long a provider's token is verified again: its key may have been withdrawn.
    reverify: float = 600.0
    #: Between two checks whether the file of the API keys has changed.
    keys_check: float = 1.0


class Bounds(NamedTuple):
    """Bounds of connections and requests, from the settings."""

    #: Bytes of a body.
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
    """Limits the request rate of each user: a token bucket for each.

    A bucket is stored as the instant at which it will be full again (the generic cell rate
    algorithm). A full bucket need not be stored. So there are two dictionaries, the current and
    the older one, which are exchanged each time that an empty bucket takes to fill: a bucket that
    was not used for that long is dropped with the older one, and is full by then.

    Args:
        rate: Requests a second that one user may send in the long run.
        burst: Requests that they may send at once after a pause.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._interval = 1 / rate
        self._span = burst / rate
        self._full_at: dict[str, float] = {}
        self._older: dict[str, float] = {}
        self._turn_at = clock() + self._span

    def __len__(self) -> int:
        """Return how many buckets are stored."""
        return len(self._full_at) + len(self._older)

    def charge(self, user: str, requests: float) -> None:
        """Take the cost of a request beyond one from the bucket, as far as that has any left.

        Args:
            user: Whose request.
            requests: The cost, in requests.
        """
        now = self._clock()
        full_at = max(self._full_at.get(user) or self._older.get(user, now), now)
        self._full_at[user] = min(full_at + requests * self._interval, now + self._span)

    def take(self, user: str) -> None:
        """Count a request.

        Raises:
            Problem: 429, with the seconds until the bucket has room; the request is not counted.
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
        # Sums of intervals are not exact: a thousandth of one is tolerated.
        beyond = full_at - now - self._span - self._interval / 1000
        if beyond > 0:
            raise too_many_requests(ceil(beyond))
        self._full_at[user] = full_at
