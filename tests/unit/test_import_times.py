"""Times in every format that a mapping may declare."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.importing.values import instant_reader


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        ("iso", "2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("iso", "2026-01-01 01:00:00.1+01:00", datetime(2026, 1, 1, 0, 0, 0, 100_000, UTC)),
        ("iso", "2026-07-01 02:00", datetime(2026, 7, 1, tzinfo=UTC)),
        ("iso", "2026-01-01 00:00:00+00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("iso", "20260101T000000Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("iso", date(2026, 1, 2), datetime(2026, 1, 1, 23, tzinfo=UTC)),
        ("iso", datetime(2026, 1, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)),
        ("s", "1767225600", datetime(2026, 1, 1, tzinfo=UTC)),
        ("s", 1767225600.1, datetime(2026, 1, 1, 0, 0, 0, 100_000, UTC)),
        ("s", "-1.5", datetime(1969, 12, 31, 23, 59, 58, 500_000, UTC)),
        ("ms", 1767225600001, datetime(2026, 1, 1, 0, 0, 0, 1_000, UTC)),
        ("us", Decimal("1767225600000001"), datetime(2026, 1, 1, 0, 0, 0, 1, UTC)),
        ("ms", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_times(form: str, value: object, expected: datetime) -> None:
    assert instant_reader(form, ZoneInfo("Europe/Berlin"))(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "", "soon", "2026-01-01T00:00:100Z", "2026-01-01T00:00:10 Z", "2026-01-01T00:00:10x+01:00",
        "2026-13-01T00:00:00Z", "2026-01-01T24:01:00Z", "1767225600", "2026-W01-1", 5, True, None,
    ],
)  # fmt: skip
def test_what_is_no_iso_time(value: object) -> None:
    with pytest.raises(ValueError, match="expected an instant in ISO 8601"):
        instant_reader("iso", UTC)(value)


@pytest.mark.parametrize("form", ["s", "ms", "us"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "nan",
        "inf",
        "1e999999999",
        float("nan"),
        float("inf"),
        10**40,
        True,
        [],
        "9" * 5000,
    ],
)
def test_what_is_no_time(form: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"expected {form} since 1970"):
        instant_reader(form, None)(value)


@given(st.datetimes(datetime(1700, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)))
def test_all_formats_tell_the_same_instant(instant: datetime) -> None:
    micros = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution)
    for form, unit in (("s", 10**6), ("ms", 10**3), ("us", 1)):
        read = instant_reader(form, None)
        assert read(str(Decimal(micros) / unit)) == instant
    assert instant_reader("us", None)(micros) == instant
    assert instant_reader("iso", None)(instant.isoformat()) == instant
