"""No answer is said to be level with the log while the tail itself is known to be behind."""

from __future__ import annotations

import time

import pytest

from projections.ports.read import Watermark
from services.api.limits.limits import Timeouts
from services.api.live.absence import LogLiveness
from services.api.live.buffer import Buffer
from services.api.reads.freshness import LAG, Freshness

#: By how many seconds what is behind is so at least.
LAGS = 100
HELD = Watermark({0: 5, 1: 7}, {}, frozenset())


class Place:
    """A tail that follows two partitions, and how fresh answers are."""

    def __init__(self) -> None:
        self.buffer = Buffer(1 << 20)
        self.liveness = LogLiveness(Timeouts())
        #: The partitions of which the tail has not taken in all that arrived.
        self.behind: set[int] = set()
        self.freshness = Freshness(self.buffer, self.liveness, self.behind.__contains__, reuse=0.0)
        self.liveness.note_answer(0.0)
        now = time.time_ns() // 1000
        for partition, offset in HELD.position.items():
            self.buffer.begin(partition, offset, now)
            self.buffer.note_caught_up(partition, now - LAGS * 1_000_000 * (partition + 1))

    def lags(self) -> list[str]:
        """Return what is said of an answer from the projections, and of one from the tail."""
        headers = self.freshness.headers(HELD), self.freshness.at_end(HELD.position)
        return [each[LAG] for each in headers]


@pytest.fixture
def place() -> Place:
    return Place()


def test_what_is_level_is_said_to_be(place: Place) -> None:
    assert place.lags() == ["0", "0"]
    assert place.freshness.lag(HELD) == 0


@pytest.mark.parametrize("behind", [{0}, {1}, {0, 1}])
def test_a_tail_that_is_behind_has_been_since_it_was_level(place: Place, behind: set[int]) -> None:
    # Whatever was said before.
    assert place.lags() == ["0", "0"]
    place.behind |= behind
    longest = LAGS * (max(behind) + 1)
    assert all(longest <= float(lag) for lag in place.lags())
    lag = place.freshness.lag(HELD)
    assert lag is not None
    assert lag >= longest
    place.behind.clear()
    assert place.lags() == ["0", "0"]


def test_the_older_one_counts_where_the_projections_are_behind_too(place: Place) -> None:
    place.buffer.reach(0, 6, None)
    place.behind.add(1)
    lag = place.freshness.lag(HELD)
    assert lag is not None
    assert lag >= 2 * LAGS


def test_an_answer_is_not_behind_for_a_partition_that_it_has_nothing_of(place: Place) -> None:
    place.behind.add(1)
    assert place.freshness.at_end({0: 5})[LAG] == "0"


def test_nothing_is_said_while_the_log_does_not_answer(place: Place) -> None:
    place.behind.add(0)
    place.liveness.note_lost()
    assert place.lags() == ["unknown", "unknown"]
    assert place.freshness.lag(HELD) is None
