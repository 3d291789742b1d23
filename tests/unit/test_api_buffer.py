"""The tail's buffer against a plain list of everything that was ever added."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jobtrail.core.position import LastRecord
from projections.ports.read import Watermark
from services.api.live.buffer import MARKS, UNKNOWN, Buffer

LIMIT = 5000
PARTITIONS = (0, 1)
KEYS = (None, b"a", b"b", b"c")
NOW = 1_700_000_000_000_000


class Model(RuleBasedStateMachine):
    """Adds, trims and begins anew at random; what the buffer claims has to be true."""

    @initialize(starts=st.tuples(st.integers(0, 5), st.integers(0, 5)))
    def start(self, starts: tuple[int, int]) -> None:
        self.buffer = Buffer(LIMIT)
        self.log: dict[int, list[tuple[int, bytes | None]]] = {p: [] for p in PARTITIONS}
        self.ends = dict(zip(PARTITIONS, starts, strict=True))
        self.position = dict.fromkeys(PARTITIONS, 0)
        for partition, offset in self.ends.items():
            self.buffer.begin(partition, offset, NOW)

    @rule(
        partition=st.sampled_from(PARTITIONS), key=st.sampled_from(KEYS), size=st.integers(0, 900)
    )
    def add(self, partition: int, key: bytes | None, size: int) -> None:
        offset = self.ends[partition]
        self.buffer.add(key, (partition, offset, NOW + offset, b"x" * size))
        self.log[partition].append((offset, key))
        self.ends[partition] = offset + 1

    @rule(
        partition=st.sampled_from(PARTITIONS),
        by=st.integers(0, 8),
        most=st.none() | st.integers(1, 3),
    )
    def project(self, partition: int, by: int, most: int | None) -> None:
        """The projections move on, perhaps beyond what the tail has seen."""
        self.position[partition] += by
        self.buffer.trim(self.position, most)

    @rule(partition=st.sampled_from(PARTITIONS), by=st.integers(0, 3))
    def lose(self, partition: int, by: int) -> None:
        self.ends[partition] += by
        self.log[partition].clear()
        self.buffer.begin(partition, self.ends[partition], NOW)

    @invariant()
    def what_is_covered_is_there(self) -> None:
        for partition in PARTITIONS:
            for checkpoint in range(self.ends[partition] + 2):
                if not self.buffer.covers(partition, checkpoint):
                    continue
                for key in KEYS[1:]:
                    there = self.buffer.beyond(key, partition, checkpoint)
                    assert [record[1] for record in there] == [
                        offset
                        for offset, other in self.log[partition]
                        if other == key and offset >= checkpoint
                    ]

    @invariant()
    def it_stays_within_its_limit(self) -> None:
        assert 0 <= self.buffer.size <= LIMIT
        held = [record for records in self.buffer.by_key.values() for record in records]
        held += [r for of in self.buffer._elsewhere.values() for some in of.values() for r in some]
        assert sum(len(record[3] or b"") for record in held) <= self.buffer.size
        assert all(self.buffer.by_key.values())

    @invariant()
    def it_knows_the_end(self) -> None:
        assert self.buffer.position == self.ends

    @invariant()
    def level_is_said_only_of_what_is_level(self) -> None:
        held = Watermark(self.position, dict.fromkeys(PARTITIONS, 1), frozenset())
        since = self.buffer.lagging_since(held)
        behind = {p for p in PARTITIONS if self.position[p] < self.ends[p]}
        assert (since is not None) == bool(behind)
        for partition in behind:
            if self.buffer.covers(partition, self.position[partition]):
                assert since is not None
                assert since <= NOW + self.position[partition]


TestBuffer = Model.TestCase


def held(checkpoint: int, timestamp: int = 0) -> Watermark:
    return Watermark({0: checkpoint}, {0: timestamp}, frozenset())


def filled(*keys: Any, start: int = 10) -> Buffer:
    buffer = Buffer(1 << 20)
    buffer.begin(0, start, NOW)
    for offset, key in enumerate(keys, start):
        buffer.add(key, (0, offset, NOW + offset, b""))
    return buffer


@pytest.mark.parametrize(
    ("checkpoint", "timestamp", "since"),
    [
        (13, 5, None),
        (14, 5, None),
        (12, 5, NOW + 12),
        (10, 5, NOW + 10),
        # Before the buffer's first record only what was applied last is known, or when it began.
        (9, NOW - 5, NOW - 5),
        # A producer's clock says anything; older than Kafka is no time of a record.
        (9, 5, UNKNOWN),
        (9, 0, NOW),
    ],
)
def test_lag_is_since_the_first_record_that_is_not_applied(
    checkpoint: int, timestamp: int, since: int | None
) -> None:
    assert filled(b"a", None, b"a").lagging_since(held(checkpoint, timestamp)) == since


def test_what_is_full_drops_the_oldest_of_the_largest_partition() -> None:
    buffer = Buffer(10_000)
    for partition in PARTITIONS:
        buffer.begin(partition, 0, NOW)
    buffer.add(b"small", (1, 0, NOW, b""))
    for offset in range(100):
        buffer.add(b"large", (0, offset, NOW, b"x" * 500))
    assert buffer.size <= 10_000
    assert buffer.dropped > 80
    assert buffer.covers(1, 0)
    assert not buffer.covers(0, 50)
    assert buffer.covers(0, 99)
    assert len(buffer.beyond(b"small", 1, 0)) == 1


@given(
    st.lists(st.sampled_from([b"a", b"b"]), max_size=30),
    st.integers(0, 40),
    st.none() | st.integers(1, 10),
)
def test_a_trimmed_buffer_holds_the_rest_only(
    keys: list[bytes], position: int, most: int | None
) -> None:
    buffer = filled(*keys, start=0)
    dropped = [len(keys)]
    while more := buffer.trim({0: position}, most):
        left = sum(map(len, buffer.by_key.values()))
        assert dropped[-1] - left == most
        dropped.append(left)
    assert more is False
    offsets = sorted(r[1] for records in buffer.by_key.values() for r in records)
    assert offsets == list(range(min(position, len(keys)), len(keys)))


def test_a_hot_key_costs_no_more_for_each_record_than_any_other() -> None:
    """Counted in records that are looked at, not in time."""

    class Counted(tuple[Any, ...]):
        looks = 0

        def __getitem__(self, at: Any) -> Any:
            Counted.looks += 1
            return super().__getitem__(at)

    count = 20_000
    buffer = Buffer(1 << 30)
    buffer.begin(0, 0, NOW)
    for offset in range(count):
        buffer.add(b"hot", Counted((0, offset, NOW + offset, b"")))  # type: ignore[arg-type]
    assert len(list(buffer.between(0, count - 10, count))) == 10
    assert len(buffer.beyond(b"hot", 0, count - 10)) == 10
    Counted.looks = 0
    for position in range(0, count, 100):
        buffer.trim({0: position})
        assert buffer.beyond(b"hot", 0, position)[0][1] == position
    assert Counted.looks < 20 * count


def test_marks_of_the_last_records_are_remembered() -> None:
    buffer = Buffer(1 << 20)
    buffer.begin(0, 5, NOW)
    buffer.remember(0, [5, 7], [50, 70])
    buffer.reach(0, 9, LastRecord(7, 70, NOW, 0))
    assert [buffer.mark(0, offset) for offset in range(4, 9)] == [None, 50, None, 70, None]
    assert (buffer.last(0), buffer.last(0, 7), buffer.last(0, 5)) == ((7, 70), (5, 50), None)
    assert buffer.position == {0: 9}
    assert buffer.mark(1, 5) is None
    buffer.remember(0, range(10, 10 + MARKS), range(MARKS))
    assert buffer.mark(0, 7) == 70
    assert buffer.mark(0, 5) is None


@pytest.mark.parametrize("odd", [-(2**62), -62_135_596_800_000_000, 0, NOW - 10**9, NOW + 10**15])
def test_lag_is_within_when_a_record_can_have_been_appended(odd: int) -> None:
    buffer = Buffer(1 << 20)
    buffer.begin(0, 10, NOW)
    buffer.note_caught_up(0, NOW + 100)
    for offset, timestamp in enumerate([odd, NOW + 150, odd], 10):
        buffer.arrive(0, offset, NOW + 200)
        buffer.add(b"k", (0, offset, timestamp, b"v"))
    since = NOW + 100 if odd < NOW else NOW + 200
    assert buffer.lagging_since(held(10, 0)) == since
    assert buffer.lagging_since(held(11, 0)) == NOW + 150
    buffer.trim({0: 12})
    assert buffer.lagging_since(held(12, 0)) == since
