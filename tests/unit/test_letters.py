"""What the headers of a dead letter say: anybody may have written them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jobtrail.core.errors import UsageError
from jobtrail.log.dead_letters import (
    DETAIL,
    PLACE,
    REASON,
    RETRIES,
    RUN,
    checked_place,
    parse_letter,
)

TOO_MANY = "9" * 5_000
GREATEST = 2**63 - 1


def record(*before: tuple[str, str], place: str = "log/3/7", run: str | None = None) -> Any:
    headers = [(name, content.encode()) for name, content in before]
    headers += [(REASON, b"invalid"), (DETAIL, b"It is none."), (PLACE, place.encode())]
    if run is not None:
        headers.insert(-1, (RUN, run.encode()))
    return SimpleNamespace(key=b"k", value=b"v", headers=headers, timestamp=0, offset=1)


@pytest.mark.parametrize(
    ("said", "retries"),
    [
        ("3", 3),
        ("", 0),
        ("-1", 0),
        ("1e3", 0),
        ("\u0663", 0),
        (str(GREATEST), GREATEST),
        (str(GREATEST + 1), 0),
        (TOO_MANY, 0),
    ],
)
def test_how_often_it_was_written_back(said: str, retries: int) -> None:
    letter = parse_letter(record((RETRIES, said)), 0)
    assert letter is not None
    assert letter.retries == retries
    assert (letter.partition, letter.offset, letter.last, letter.records) == (3, 7, 7, 1)


@pytest.mark.parametrize(
    "place",
    [
        f"log/{TOO_MANY}/7",
        f"log/3/{TOO_MANY}",
        "log/3/\u0663",
        f"log/3/{GREATEST + 1}",
        "/3/7",
        "log/-1/7",
    ],
)
def test_a_place_that_is_none(place: str) -> None:
    assert parse_letter(record(place=place), 0) is None
    with pytest.raises(UsageError, match="no place of a letter"):
        checked_place(place)


@pytest.mark.parametrize(
    ("run", "last", "records"),
    [
        ("9/2", 9, 2),
        (f"{TOO_MANY}/2", 7, 2),
        (f"9/{TOO_MANY}", 9, 3),
        ("1/2", 7, 2),
        ("9/0", 9, 3),
        ("", 7, 1),
    ],
)
def test_what_a_run_stands_for(run: str, last: int, records: int) -> None:
    letter = parse_letter(record(run=run), 0)
    assert letter is not None
    assert (letter.kind, letter.last, letter.records) == (RUN, last, records)
