"""Positions: the text form both ways, what is refused, and when one position holds another."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobtrail.core.errors import UsageError
from jobtrail.core.position import format_position, holds, join_positions, parse_position

positions = st.dictionaries(
    st.integers(0, 9999), st.integers(0, 10**18 - 1), min_size=1, max_size=20
)

WRONG = ["", " ", "3", "3:", ":7", "3:7,", ",3:7", "3:7 ", "3:7\n", "3: 7", "3;7", "3:7;4:8", "a:1"]
WRONG += ["-1:7", "3:-7", "+3:7", "3:7.0", "3:0x7", "3:1_0", "٣:٧", "3:7,4", "12345:7"]
WRONG += ["3:1234567890123456789", ",".join(f"{n}:1" for n in range(1025))]


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("3:1043", {3: 1043}),
        ("0:10,1:7", {0: 10, 1: 7}),
        ("1:7,0:10", {0: 10, 1: 7}),
        ("0:0", {0: 0}),
        ("1023:999999999999999999", {1023: 10**18 - 1}),
        (",".join(f"{n}:1" for n in range(1024)), dict.fromkeys(range(1024), 1)),
    ],
)
def test_parse_reads_pairs_in_any_order(text: str, position: dict[int, int]) -> None:
    assert parse_position(text) == position


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text)[:20])
def test_parse_refuses_another_form_and_says_which_is_right(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_position(text)
    assert refused.value.expected == "partition:offset pairs joined by commas, as 3:1043"
    assert refused.value.found == repr(text[:80])


@pytest.mark.parametrize("text", ["3:1,3:1", "3:1,4:1,3:2", "3:1,03:2"])
def test_parse_refuses_a_partition_named_twice(text: str) -> None:
    with pytest.raises(UsageError, match="names a partition twice"):
        parse_position(text)


@given(st.text("0123456789:, ", max_size=20))
@example("٣:٧")
def test_parse_reads_or_raises_a_usage_error(text: str) -> None:
    try:
        position = parse_position(text)
    except UsageError:
        position = {0: 0}
    assert position
    assert parse_position(format_position(position)) == position


def test_format_puts_partitions_in_order_of_number() -> None:
    assert format_position({10: 1, 9: 2, 0: 3}) == "0:3,9:2,10:1"


@given(positions)
def test_what_is_formatted_is_read_again(position: dict[int, int]) -> None:
    assert parse_position(format_position(position)) == position


@pytest.mark.parametrize(
    ("held", "wanted", "answer"),
    [
        ({3: 10}, {3: 10}, True),
        ({3: 11}, {3: 10}, True),
        ({3: 9}, {3: 10}, False),
        ({3: 10, 4: 1}, {3: 10}, True),
        ({3: 10}, {3: 10, 4: 1}, False),
        ({3: 10}, {4: 1}, False),
        ({3: 10, 4: 1}, {3: 10, 4: 2}, False),
        ({}, {4: 0}, True),
        ({}, {}, True),
        ({3: 10}, {}, True),
    ],
)
def test_a_position_holds_what_lies_before_it_in_every_wanted_partition(
    held: dict[int, int], wanted: dict[int, int], answer: bool
) -> None:
    assert holds(held, wanted) is answer


@given(positions, positions, positions)
def test_holds_is_an_order(a: dict[int, int], b: dict[int, int], c: dict[int, int]) -> None:
    assert holds(a, a)
    both = {key: max(a.get(key, 0), b.get(key, 0)) for key in a | b}
    assert holds(both, a)
    assert holds(both, b)
    assert not (holds(a, b) and holds(b, c)) or holds(a, c)
    beyond = {key: offset + 1 for key, offset in a.items()}
    assert holds(beyond, a)
    assert not holds(a, beyond)


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["3:7.0000000a"], "3:7.0000000a"),
        (["3:7", "1:2"], "1:2,3:7"),
        (["3:7.0000000a", "3:9"], "3:9"),
        (["3:9", "3:7.0000000a"], "3:9"),
        (["3:9.0000000a", "3:9"], "3:9.0000000a"),
        (["3:9", "3:9.0000000a"], "3:9.0000000a"),
        (["0:1.00000001,3:9.0000000a", "3:8.0000000b,5:0"], "0:1.00000001,3:9.0000000a,5:0"),
    ],
)
def test_joined_positions_hold_what_is_furthest_of_each(texts: list[str], joined: str) -> None:
    assert format_position(join_positions(map(parse_position, texts))) == joined
