"""The benchmarks' own arithmetic: made-up events, percentiles, results and how they are told."""

from __future__ import annotations

import itertools
from collections import Counter
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import msgspec
import pytest

from benchmarks import FIGURES, LONG, results
from benchmarks.catch_up_peers import PEERS, Peer, make_ready
from benchmarks.client import HttpProtocol, get, post
from benchmarks.load import BEGIN, BIG_OWNER, Load
from benchmarks.peers import jobs_table, postgres_table
from benchmarks.report import BEGIN as BEGIN_RESULTS
from benchmarks.report import END as END_RESULTS
from benchmarks.report import PAGE, main, markdown, rewrite
from benchmarks.results import Result, Row, as_text, number
from benchmarks.stats import distribution, latencies, middle, percentile
from jobtrail.core.events import Created, decode, microseconds
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place
from jobtrail.core.states import State
from jobtrail.core.trail import Verdict

SMALL = Load(jobs=500, owners=50, under_way=100)


# --- the events


def test_a_load_is_the_same_every_time() -> None:
    made = list(SMALL.records())
    assert made == list(Load(jobs=500, owners=50, under_way=100).records())
    assert made != list(Load(jobs=500, owners=50, under_way=100, seed=1).records())
    # In any process, with any version of Python: topics are found again by this.
    digest = blake2b(b"\n".join(value for _, value in made), digest_size=8).hexdigest()
    assert (digest, SMALL.name) == ("9de8547cdeea5e26", "load-2000-56ec27a0")


def test_loads_that_differ_have_other_names() -> None:
    loads = [
        SMALL,
        Load(jobs=501, owners=50, under_way=100),
        Load(jobs=500, owners=51, under_way=100),
        Load(jobs=500, owners=50, under_way=101),
        Load(jobs=500, owners=50, under_way=100, seed=1),
        Load(jobs=500, owners=50, under_way=100, big_every=2),
    ]
    assert len({load.name for load in loads}) == len(loads)


def test_sizes_are_as_they_are_said_to_be() -> None:
    made = list(SMALL.records())
    assert len(made) == SMALL.events == 2_000
    assert len({job_id for job_id, _ in made}) == SMALL.jobs
    assert 300 < fmean(len(value) for _, value in made) < 360
    owners = {SMALL.job(number).owner for number in range(SMALL.jobs)}
    assert len(owners) == SMALL.owners


def test_20_000_jobs_are_under_way_and_each_goes_step_by_step() -> None:
    load = Load(jobs=25_000)
    step_of: dict[str, int] = {}
    under_way = begun = 0
    seen = []
    for job, step in load.steps():
        assert step == step_of.get(job.id, 0)
        step_of[job.id] = step + 1
        begun += step == 0
        under_way += (step == 0) - (step == 3)
        seen.append((begun, under_way))
    assert under_way == 0
    assert set(step_of.values()) == {4}
    # From when as many have begun until the last one has, one that ends makes room for one.
    busy = [count for begun, count in seen if load.under_way < begun < load.jobs]
    assert {19_999, 20_000} == set(busy)


def test_jobs_are_interleaved() -> None:
    places: dict[str, list[int]] = {}
    for at, (job_id, _) in enumerate(SMALL.records()):
        places.setdefault(job_id, []).append(at)
    gaps = [b - a for some in places.values() for a, b in itertools.pairwise(some)]
    assert fmean(gaps) > 50


def test_every_event_is_valid_and_applied() -> None:
    jobs: dict[str, Job] = {}
    times = []
    for offset, (job_id, value) in enumerate(SMALL.records()):
        event = decode(value)
        assert event.subject == job_id
        assert event.time is not None
        times.append(event.time)
        jobs[job_id], verdict = fold(jobs.get(job_id), event, Place(0, offset, 0))
        assert verdict is Verdict.APPLIED
    assert {job.state for job in jobs.values()} == {State.COMPLETED}
    assert times == sorted(times)
    assert times[0] == BEGIN
    assert 29 < (times[-1] - BEGIN).days + 1 <= 30
    assert microseconds(times[0]) == min(job.created_at for job in jobs.values())


def test_what_is_asked_for_is_what_was_sent() -> None:
    by_id = {job.id: job for job in map(SMALL.job, range(SMALL.jobs))}
    for job_id, value in SMALL.records():
        event = decode(value)
        if isinstance(event, Created):
            assert event.data.owner == by_id[job_id].owner
            assert event.data.bulk_id == by_id[job_id].bulk


def test_one_user_may_have_very_many_jobs() -> None:
    load = Load(jobs=1_100, owners=100, big_every=11)
    owners = Counter(load.job(number).owner for number in range(load.jobs))
    assert owners.pop(BIG_OWNER) == 100
    assert max(owners.values()) < 30


def test_the_table_in_postgresql_is_brought_to_the_same_end() -> None:
    load = Load(jobs=300, owners=50, under_way=100, life=("created", "completed"))
    values = [value for _, value in load.records()]
    folded = zip(*postgres_table.fold(values), strict=True)
    rows = {row.id: row for row in jobs_table.rows(load)}
    assert len(rows) == load.jobs
    for values_of_one in folded:
        found = jobs_table.Job._make(values_of_one)
        row = rows[found.id]
        assert found.owner == row.owner
        assert (found.type, found.state, found.bulk_id) == (row.type, row.state, row.bulk_id)
        assert f"{{{','.join(row.viewers)}}}" == found.viewers
        for name in ("tags", "output"):
            told, expected = getattr(found, name), getattr(row, name)
            assert msgspec.json.decode(told) == msgspec.json.decode(expected)
        # An event's time has milliseconds.
        assert abs((found.created_at - row.created_at).total_seconds()) < 0.001
        assert found.ended_at is not None


def test_the_table_keeps_what_a_life_leaves() -> None:
    values = [value for _, value in SMALL.records()]
    columns = dict(zip(jobs_table.COLUMNS, postgres_table.fold(values), strict=True))
    assert set(columns["state"]) == {"completed"}
    assert len(columns["id"]) == SMALL.jobs
    assert None not in columns["started_at"]
    assert None not in columns["error"]


# --- the arithmetic


@pytest.mark.parametrize(
    ("percent", "expected"), [(0.1, 1), (1, 1), (50, 50), (50.1, 51), (99, 99), (99.9, 100)]
)
def test_percentiles_of_1_to_100(percent: float, expected: float) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_percentiles_of_other_numbers_of_values() -> None:
    assert percentile([7.0], 1) == percentile([7.0], 100) == 7.0
    assert percentile([1, 2, 3], 50) == 2
    assert percentile([1, 2, 3, 4], 50) == 2
    assert percentile(range(1, 1001), 99.9) == 999
    for values, percent in (([], 50), ([1], 0), ([1], 101)):
        with pytest.raises(ValueError, match="percentile"):
            percentile(values, percent)


def test_distributions() -> None:
    assert distribution([]) == {"count": 0}
    assert latencies([]) == {}
    found = distribution([3, 1, 2])
    assert (found["count"], found["mean"], found["min"], found["max"]) == (3, 2, 1, 3)
    assert latencies([3, 1, 2]) == {"p50": 2, "p90": 3, "p99": 3, "max": 3}
    assert middle([5, 1, 3]) == {"median": 3, "min": 1, "max": 5}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (41_234.5, "41,234"), (100, "100"), (99.96, "100"), (1.2345, "1.23"), (-0.5, "-0.5"),
     (0.0004, "4.0e-04")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_values_are_told_in_words() -> None:
    assert as_text({"median": 3, "min": 1, "max": 5}, "s") == "3 s (1 to 5)"
    assert as_text({"median": 3, "min": 3, "max": 3}, "s") == "3 s"
    assert as_text({"p50": 1.25, "p99": 300}, "ms") == "p50 1.25, p99 300 ms"
    assert as_text({}, "left out: no Java") == "left out: no Java"
    assert as_text({"missed": 0, "early": 0}, "") == "missed 0, early 0"


# --- the peers


def test_the_peers_of_catch_up_can_be_told_apart() -> None:
    assert len({peer.who for peer in PEERS}) == len(PEERS)
    for peer in PEERS:
        assert find_spec(f"benchmarks.peers.{peer.module}") is not None


def test_a_peer_gets_its_share_of_the_events_and_enough_of_them() -> None:
    peer = Peer("slow", "faust_noop", share=40)
    assert [peer.events_of(events) for events in (400_000, 20_000, 500)] == [10_000, 1_000, 500]
    assert peer.who == "slow (1/40 of the events)"


def test_a_peer_that_can_not_be_run_is_left_out_and_the_reason_is_told() -> None:
    built: list[str] = []
    whole = Peer("whole", "faust_noop", build=lambda: built.append("whole"))
    torn = Peer("torn", "faust_noop", missing=lambda: "no Java", build=lambda: built.append("torn"))
    assert make_ready((whole, torn)) == {"torn": "no Java"}
    assert built == ["whole"]


# --- the client


class Heard(HttpProtocol):
    """Keeps the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[int, bytes]] = []

    def answered(self, status: int, body: bytes) -> None:
        self.answers.append((status, body))


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\n{}", (200, b"{}")),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", (204, b"")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\n\n\r\nb\r\n{\"a\": 12345\r\n1\r\n}\r\n0\r\n\r\n",
            (200, b'\n{"a": 12345}'),
        ),
    ],
)  # fmt: skip
def test_an_answer_is_read_in_pieces_of_any_size(raw: bytes, answer: tuple[int, bytes]) -> None:
    for size in (1, 7, len(raw)):
        client = Heard()
        for _ in range(2):
            for at in range(0, len(raw), size):
                client.data_received(raw[at : at + size])
        assert client.answers == [answer, answer]


def test_requests_are_prepared() -> None:
    assert get("/x", "t", Jobtrail_Position="0:1") == (
        b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer t\r\n"
        b"Jobtrail-Position: 0:1\r\n\r\n"
    )
    assert post("/x", "t", b"{}").endswith(b"Content-Length: 2\r\n\r\n{}")


# --- the results


MACHINE = {
    "cpu": "Some CPU",
    "cores": 2,
    "memory_gib": 4.0,
    "kernel": "Linux 6",
    "python": "CPython 3.11",
    "java": "21",
    "kafka": "4",
    "sqlite": "3",
    "jobtrail": "0.1.0",
    "libraries": {"aiohttp": "3"},
    "load_average": 0.1,
}


def a_result(figure: str = "waits") -> Result:
    return Result(
        figure=figure,
        what="Milliseconds.",
        parameters={"waits": 10},
        runs=[{"missed": 0, "p50": 1 / 3}],
        rows=[
            Row("from here", "ms", {"p50": 1 / 3, "p99": 2.0}),
            Row("from here", "a second", {"median": 10.0, "min": 9.0, "max": 11.0}),
            Row("from there", "ms", {"p50": 5.0}),
        ],
        distributions={"from_here_ms": {"count": 1, "p50": 1 / 3}},
        machine=MACHINE,
        seconds=1.5,
    )


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = results.write(a_result(), tmp_path / "results")
    assert path.name == "waits.json"
    found = results.read(path)
    assert found.rows[0].values["p50"] == 0.333333
    assert (found.figure, found.machine, found.seconds) == ("waits", MACHINE, 1.5)


def test_the_report_writes_results_between_the_markers(tmp_path: Path) -> None:
    folder, page = tmp_path / "results", tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN_RESULTS}\nold\n{END_RESULTS}\nafter\n")
    for figure in ("waits", "start", "no-figure-any-more"):
        results.write(a_result(figure), folder)
    for _ in range(2):
        assert main(["--results", str(folder), "--page", str(page)]) == 0
    before, _, rest = page.read_text().partition(BEGIN_RESULTS)
    table, _, after = rest.partition(END_RESULTS)
    assert (before, after) == ("before\n", "\nafter\n")
    assert "old" not in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    told = "p50 0.333, p99 2 ms; 10 a second (9 to 11)"
    assert lines == [
        "| figure | measure | result |",
        "|---|---|---|",
        f"| `start` | from here | {told} |",
        "|  | from there | p50 5 ms |",
        f"| `waits` | from here | {told} |",
        "|  | from there | p50 5 ms |",
    ]
    assert table.count("2 cores of Some CPU") == 1


def test_a_page_without_markers_is_left_alone() -> None:
    for page in ("", BEGIN_RESULTS, f"{END_RESULTS}{BEGIN_RESULTS}"):
        with pytest.raises(ValueError, match="the page needs"):
            rewrite(page, "text")


def test_the_page_has_its_markers_and_tells_of_every_figure() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rewrite(page, markdown([])).count(BEGIN_RESULTS) == 1
    for figure in (*FIGURES, *LONG):
        assert f"\n## `{figure}`\n" in page
        assert callable(import_module(f"benchmarks.{figure}").measure)


def test_results_that_are_kept_name_no_place_and_no_user() -> None:
    for path in results.RESULTS.glob("*.json"):
        found = results.read(path)
        assert found.figure == path.stem
        assert found.machine["libraries"]
        for mark in ("/tmp", "/home", "/root", "/Users"):
            assert mark not in path.read_text(encoding="utf-8")
