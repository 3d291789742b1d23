"""Reports of jobs that are made up for it: what is rare, empty or strange."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobtrail.core import events as ev
from jobtrail.core.errors import UsageError
from jobtrail.core.events import microseconds
from jobtrail.replay.report import PLOTS, About, Range, Report
from jobtrail.replay.report.changes import cut
from tests.replay_tables import tables_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ABOUT = About("job-events <here>", {0: 7}, "all & more", ("user: <b>alice</b>",), NOON)


class Steps:
    """Makes up events."""

    def __init__(self) -> None:
        self.events: list[ev.Event] = []

    def add(self, job: str, kind: str, second: float, **data: Any) -> Steps:
        if kind == "created":
            data = {"jobType": "nightly", "owner": "alice"} | data
        event = {
            "specversion": "1.0",
            "id": f"e{len(self.events)}",
            "source": "//tests",
            "type": f"job.{kind}",
            "subject": job,
            "time": (NOON + timedelta(seconds=second)).isoformat(),
            "data": data,
        }
        self.events.append(ev.decode(msgspec.json.encode(event)))
        return self

    def report(self, **range_: Any) -> Report:
        return Report.of(tables_of(self.events), Range(**range_), ABOUT)


def rows(report: Report, figure: str) -> list[dict[str, Any]]:
    found = report.figures[figure]
    return [dict(zip([c.name for c in found.columns], row, strict=True)) for row in found.rows]


class Page(HTMLParser):
    """What a page has: its ids and what refers to them, its text, what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.inner: list[str] = []
        self.outer: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            elif name == "aria-labelledby":
                self.inner += value.split()
            elif name in ("href", "src", "xlink:href"):
                (self.inner if value.startswith("#") else self.outer).append(value.lstrip("#"))
            self.inner += re.findall(r"url\(#(.*?)\)", value)
            if name.startswith("on"):
                self.outer.append(value)

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(report: Report, folder: Path) -> Page:
    file = folder / "report.html"
    report.write_page(file)
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    html = file.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|<script", html)
    page = Page(html)
    assert sorted(set(page.ids)) == sorted(page.ids)
    assert set(page.inner) <= set(page.ids)
    assert page.outer == ["data:,"]
    return page


def test_waiting_and_running_are_what_the_page_says_they_are() -> None:
    steps = Steps()
    steps.add("a", "created", 0).add("a", "active", 10).add("a", "progress", 11)
    steps.add("a", "retry", 15).add("a", "active", 45).add("a", "failed", 50)
    steps.add("a", "retry", 70).add("a", "active", 71).add("a", "completed", 72)
    # Never taken up; taken up without a wait; another attempt right away; still running.
    steps.add("b", "created", 0).add("b", "cancelled", 500)
    steps.add("c", "active", 0).add("c", "active", 7, attempt=1)
    # From created to retry to active: the wait is that in retry.
    steps.add("d", "created", 0).add("d", "retry", 100).add("d", "active", 103)
    report = steps.report()
    assert rows(report, "waiting")[0] == {
        "job_type": "(all types)",
        "stays": 4,
        "total": 10 + 30 + 1 + 3,
        "p50": 3,
        "p90": 30,
        "p99": 30,
        "max": 30,
    }
    running = {row["job_type"]: row for row in rows(report, "running")}
    assert running["(all types)"]["stays"] == 4
    assert (running["nightly"]["total"], running["(no type)"]["total"]) == (5 + 5 + 1, 7)
    (slowest, *_) = (row for row in rows(report, "slowest") if row["id"] == "a")
    phases = ("waiting", "in_retry", "running", "ended_between", "total")
    assert [slowest[phase] for phase in phases] == [10, 31, 11, 20, 72]
    assert [row["id"] for row in rows(report, "slowest")] == ["b", "a"]
    assert [(row["id"], row["state"]) for row in rows(report, "oldest")] == [
        ("c", "active"),
        ("d", "active"),
    ]
    rates = rows(report, "rates_by_type")[0]
    assert (rates["failure_rate"], rates["retry_rate"]) == (1 / 3, 1 / 4)


def test_a_job_of_which_only_progress_is_known_is_there_and_has_not_arrived() -> None:
    report = Steps().add("a", "progress", 0).add("b", "created", 1).report()
    (totals,) = rows(report, "totals")
    assert (totals["jobs"], totals["arrived"], totals["open"]) == (2, 1, 2)
    assert [(row["job_type"], row["created"]) for row in rows(report, "types")] == [
        ("(no type)", 1),
        ("nightly", 1),
    ]


def test_a_range_counts_what_changed_in_it_and_stands_on_what_was_before() -> None:
    steps = Steps().add("a", "created", 0).add("a", "active", 10).add("b", "created", 20)
    steps.add("a", "completed", 30).add("b", "active", 40)
    report = steps.report(since=NOON + timedelta(seconds=25), until=NOON + timedelta(seconds=100))
    (totals,) = rows(report, "totals")
    assert (totals["jobs"], totals["arrived"], totals["changes"], totals["open"]) == (2, 0, 2, 1)
    flow = rows(report, "flow")
    assert (flow[0]["at"], flow[-1]["at"]) == tuple(
        microseconds(NOON) + second * 1_000_000 for second in (25, 100)
    )
    assert (flow[0]["created"], flow[0]["active"], flow[0]["completed"]) == (1, 1, 0)
    assert (flow[-1]["created"], flow[-1]["active"], flow[-1]["completed"]) == (0, 1, 1)
    # The whole of a stay that ended in the range counts, wherever it began.
    assert rows(report, "running")[0]["max"] == rows(report, "waiting")[0]["max"] == 20
    assert rows(report, "oldest")[0]["age"] == 80


def test_times_that_go_backwards_count_as_nothing_and_are_told(tmp_path: Path) -> None:
    steps = Steps().add("a", "created", 100).add("a", "active", 40).add("a", "completed", 130)
    report = steps.report()
    assert rows(report, "totals")[0]["backwards"] == 1
    assert rows(report, "waiting")[0]["max"] == 0
    assert rows(report, "running")[0]["max"] == 90
    assert [row["arrived"] for row in rows(report, "arrivals") if row["arrived"]] == [1]
    assert "Times that go backwards" in page_of(report, tmp_path).text


def test_small_types_are_put_together(tmp_path: Path) -> None:
    steps = Steps()
    for number in range(25):
        for copy in range(25 - number):
            steps.add(f"{number}.{copy}", "created", number, jobType=f"type-{number:02}")
            steps.add(f"{number}.{copy}", "active", number + 1)
    report = steps.report()
    names = [row["job_type"] for row in rows(report, "types")]
    assert names == [*(f"type-{number:02}" for number in range(20)), "(5 other types)"]
    assert rows(report, "types")[-1]["jobs"] == 5 + 4 + 3 + 2 + 1
    assert [row["job_type"] for row in rows(report, "waiting")] == ["(all types)", *names]
    assert "(5 other types)" in page_of(report, tmp_path).text


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", 'a"b&c id="x" #0072b2', "$\\frac{x}$", "名前", "x" * 256)
    steps = Steps()
    for number, name in enumerate(names):
        steps.add(f"job {name[:200]}", "created", number, jobType=name, owner=name)
        steps.add(f"job {name[:200]}", "active", number + 5)
        steps.add(f"job {name[:200]}", "completed", number + 60)
    report = steps.report()
    page = page_of(report, tmp_path)
    for name in names:
        assert page.text.count(name) >= 5
    assert "$\\frac{x}$" in page.text
    assert "user: <b>alice</b>" in page.text
    assert page.tags.count("svg") == len(PLOTS)


@pytest.mark.parametrize("steps", [Steps(), Steps().add("a", "created", 0)])
def test_what_is_empty_is_said_in_words(steps: Steps, tmp_path: Path) -> None:
    report = steps.report(since=NOON + timedelta(days=1))
    page = page_of(report, tmp_path)
    for words in (
        "No job changed its state in this range.",
        "No job was taken up in this range.",
        "No run ended in this range.",
        "No job ended in this range.",
        "Slowest jobs that ended: none.",
    ):
        assert words in page.text
    assert all(file.exists() for file in report.write_csv(tmp_path / "csv"))


def test_one_event_is_enough(tmp_path: Path) -> None:
    report = Steps().add("a", "completed", 0).report()
    assert "1" in page_of(report, tmp_path).text
    assert rows(report, "arrivals")[0]["arrived"] == rows(report, "arrivals")[0]["completed"] == 1


def test_a_plot_alone_is_a_png(tmp_path: Path) -> None:
    report = Steps().add("a", "created", 0).add("a", "active", 4).report()
    report.write_png("waiting", tmp_path / "waiting.png")
    assert (tmp_path / "waiting.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="There is no such plot"):
        report.write_png("nothing", tmp_path / "nothing.png")


@pytest.mark.parametrize("seconds", [0, 1, 199, 200, 3600, 86_400, 86_400 * 40, 86_400 * 365 * 900])
@pytest.mark.parametrize("begin", [0, -86_400 * 365 * 30, 1_795_438_812])
def test_time_is_cut_into_round_steps_that_are_not_too_many(begin: int, seconds: int) -> None:
    first, last = begin * 1_000_000 + 123, (begin + seconds) * 1_000_000 + 456
    bins = cut(first, last)
    assert bins.first <= first < bins.first + bins.step
    assert bins.end - bins.step <= last < bins.end
    assert (bins.end - bins.first) % bins.step == bins.first % bins.step == 0
    assert (bins.end - bins.first) // bins.step <= 200
    assert (bins.end - bins.first) // bins.step >= 20 or bins.step == 1_000_000 or seconds < 86400


# --- the ends of the calendar

FIRST, LAST = "0002-01-01T00:00:00+14:00", "9998-12-31T23:59:59.999999-14:00"
CALENDAR = Range(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("instants", "range_"),
    [
        ((FIRST, "0002-06-01T00:00:00Z", LAST), Range()),
        ((LAST, FIRST, "2026-01-01T00:00:00Z"), Range()),
        ((FIRST, FIRST, FIRST), CALENDAR),
        ((LAST, LAST, LAST), Range()),
    ],
)
def test_a_report_reaches_to_the_ends_of_the_calendar(
    tmp_path: Path, instants: tuple[str, str, str], range_: Range
) -> None:
    steps = Steps()
    for kind, instant in zip(("created", "active", "failed"), instants, strict=True):
        steps.add("a", kind, 0)
        steps.events[-1].time = datetime.fromisoformat(instant)
    report = Report.of(tables_of(steps.events), range_, ABOUT)
    report.write_page(tmp_path / "page.html")
    begun = [row["begin"] for row in rows(report, "arrivals")]
    assert len(begun) <= 200
    assert sum(row["arrived"] for row in rows(report, "arrivals")) == 1
    (csv,) = (file for file in report.write_csv(tmp_path) if file.stem == "arrivals")
    lines = csv.read_text().splitlines()
    assert len(lines) == 1 + len(begun)
    assert all(re.match(r"\d{4}-\d\d-\d\dT", line) for line in lines[1:])


def test_steps_of_many_years_stay_within_the_calendar() -> None:
    first, last = (microseconds(datetime.fromisoformat(text)) for text in (FIRST, LAST))
    bins = cut(first, last)
    assert bins.first >= microseconds(CALENDAR.since)  # type: ignore[arg-type]
    assert bins.first <= first < last < bins.end
    assert bins.end - last <= bins.step
    assert (bins.end - bins.first) // bins.step <= 200
    assert (bins.end - bins.first) % bins.step == 0
