"""The figure `size`: what is told of its slices, and how they are drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from benchmarks import results
from benchmarks.load import Load
from benchmarks.picture import picture, round_numbers, short, steps
from benchmarks.report import BEGIN, END, main
from benchmarks.results import Result
from benchmarks.size import Moment, Slice, around, cut, jobs_at, shown

LOAD = Load(jobs=500, owners=50, under_way=100, life=("created", "completed"))


def a_slice(jobs: int, cost: float = 30.0, other_cost: float = 30.0) -> Slice:
    """Return 1,000 events in a tenth of a second, so many µs of CPU each."""
    cpu = [cost * 1e-3, other_cost * 1e-3]
    return Slice(2 * jobs, jobs, 0.1, cpu, 1_000, [10.0, 11.0], [1.0, 2.0])


def a_result(slices: list[Slice]) -> Result:
    run = {"joined_at": 0, "slices": [msgspec.to_builtins(found) for found in slices]}
    machine = {
        **dict.fromkeys(("cpu", "cores", "memory_gib", "kernel", "python", "java"), "some"),
        **dict.fromkeys(("kafka", "sqlite", "jobtrail"), "some"),
        "libraries": {},
    }
    return Result("size", "what", {}, [run], [], machine=machine)


def test_the_number_of_jobs_follows_from_the_number_of_events() -> None:
    begun = 0
    for number, (_, step) in enumerate(LOAD.steps(), start=1):
        begun += step == 0
        assert abs(jobs_at(LOAD, number) - begun) <= 1
    assert jobs_at(LOAD, LOAD.events) == LOAD.jobs


def test_a_slice_is_what_lies_between_two_moments() -> None:
    moments = [
        Moment(100, 1.0, [1.0, 2.0], [5.0, 5.0], [1.0, 1.0]),
        Moment(300, 3.0, [1.5, 2.25], [6.0, 7.0], [2.0, 3.0]),
    ]
    (found,) = cut(moments, LOAD)
    assert found == Slice(300, 150, 2.0, [0.5, 0.25], 200, [6.0, 7.0], [2.0, 3.0])
    assert (found.rate, found.cost) == (100.0, pytest.approx(3_750))


def test_what_is_told_around_a_number_of_jobs() -> None:
    slices = [a_slice(100), a_slice(900), a_slice(1_100, 50), a_slice(2_000)]
    assert around(slices, 1_000) == (pytest.approx(10_000), pytest.approx(70))
    assert around(slices, 2_100) == (pytest.approx(10_000), pytest.approx(60))
    assert around(slices, 500) is None
    assert around(slices, 2_400) is None


def test_slices_in_which_one_projector_had_nothing_to_do_are_not_shown() -> None:
    joining, both, late = a_slice(600), a_slice(1_500), a_slice(2_000, 30, 5)
    assert shown([joining, both, late], joined_at=500) == [both]


def test_ticks_are_round() -> None:
    assert steps(33) == [0, 10, 20, 30, 40]
    assert steps(60_000) == [0, 20_000, 40_000, 60_000]
    assert round_numbers(30_000, 1_000_000) == [50_000, 100_000, 200_000, 500_000, 1_000_000]
    assert [short(number) for number in (200, 50_000, 2_000_000)] == ["200", "50 k", "2 M"]


def test_the_report_draws_it_and_shows_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    result = a_result([a_slice(jobs * 1_000) for jobs in range(1, 9)])
    results.write(result, tmp_path / "results")
    assert main(["--results", str(tmp_path / "results"), "--page", str(page)]) == 0
    assert "](size.svg)" in page.read_text()
    drawn = (tmp_path / "size.svg").read_text(encoding="utf-8")
    assert drawn == picture(result)
    lines = ET.fromstring(drawn).findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [8] * 4


def test_too_few_events_make_a_picture_that_says_so() -> None:
    assert "too few events" in picture(a_result([a_slice(100)]))
