"""Replay of a log in a real Kafka, by the library and on the command line."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
from pathlib import Path

import duckdb
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from click.testing import CliRunner
from pyarrow import parquet

from jobtrail.cli import main
from jobtrail.core.errors import LogGapError, LogUnavailable
from jobtrail.replay import Filters, Replay
from jobtrail.replay.archive.joined import JoinedSource
from jobtrail.replay.archive.reading import ArchiveSource
from jobtrail.replay.sources.log import LogSource
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.replaying import JOBS, begin, event, filled, run, write
from tests.replay_rows import Logged, expected
from tests.waiting import look_again


@pytest.fixture
async def settings(make_log: MakeLog) -> Settings:
    return await filled(make_log)


def read(settings: Settings) -> None:
    with Replay(LogSource(settings)) as replay:
        logged = [Logged(place, event) for place, event in replay.events()]
        assert (len(logged), replay.refused) == (JOBS * 2 + JOBS * 2 // 3, 1)
        wanted, _ = expected(logged)
        found = {row["id"]: row for row in replay.state_at().to_arrow().to_pylist()}
        assert {k: v["state"] for k, v in found.items()} == {
            k: v["state"] for k, v in wanted.items()
        }
        half = {partition: end // 2 for partition, end in replay.ends.items()}
        rest = [event for _place, event in replay.events(since=half)]
        first = [event for _place, event in replay.events(until=half)]
        assert len(first) + len(rest) == len(logged)
        assert sum(1 for _ in replay.events(Filters(users=("u3",)), since=half)) == sum(
            wanted[event.subject]["owner"] == "u3" for event in rest
        )
        with pytest.raises(LogGapError):
            list(LogSource(settings).read({0: replay.ends[0] + 9}, {0: replay.ends[0] + 10}))


async def test_a_log_is_read_whole_and_in_parts(settings: Settings) -> None:
    await asyncio.to_thread(read, settings)


async def test_a_log_that_is_not_there_says_so() -> None:
    away = Settings(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(LogUnavailable, match="does not answer"):
        await asyncio.to_thread(LogSource, away)


async def test_the_command_exports_by_day_and_says_where_it_stopped(
    settings: Settings, tmp_path: Path
) -> None:
    to = tmp_path / "days.parquet"
    status, out, _ = await run(settings, "--to", str(to), "--by-day", "--json")
    assert (status, json.loads(out)["rows"]) == (0, JOBS * 2 + JOBS * 2 // 3)
    assert len(parquet.read_table(to / "date=2026-11-23")) == JOBS * 2 + JOBS * 2 // 3
    end = json.loads(out)["position"]
    status, out, _ = await run(
        settings, "--to", str(tmp_path / "rest.csv"), "--since", end, "--json"
    )
    assert (status, json.loads(out)["rows"], json.loads(out)["position"]) == (0, 0, end)
    part = end.split(",")[0]
    status, out, _ = await run(settings, "--to", str(tmp_path / "a.csv"), "--until", part, "--json")
    stopped = dict(pair.split(":") for pair in json.loads(out)["position"].split(","))
    assert status == 0
    assert {partition for partition, offset in stopped.items() if offset != "0"} == {part[0]}
    for cut in (("--until", "2026-11-23"), ("--limit", "3")):
        status, out, _ = await run(settings, "--to", str(tmp_path / "b.csv"), *cut, "--json")
        assert (status, json.loads(out)["position"]) == (0, None)
    status, _, err = await run(settings, "--state-at", "now", "--until", end)
    assert (status, "already up to where" in err) == (2, True)


@pytest.mark.parametrize("ending", ["csv", "parquet", "duckdb"])
async def test_an_export_that_is_killed_leaves_nothing_half(
    settings: Settings, tmp_path: Path, ending: str
) -> None:
    to = tmp_path / "exports" / f"all.{ending}"
    process = await begin(settings, "--to", str(to), "--max-rate", "200")
    async with asyncio.timeout(60):
        while not any(to.parent.glob(f".{to.name}.*/{to.name}")):
            assert process.returncode is None
            await look_again()
    process.kill()
    await process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not to.exists()
    status, out, _ = await run(settings, "--to", str(to), "--json")
    assert (status, json.loads(out)["rows"]) == (0, JOBS * 2 + JOBS * 2 // 3)
    assert list(to.parent.iterdir()) == [to]


async def test_the_command_exports(settings: Settings, tmp_path: Path) -> None:
    refused = "1 records of the log are no valid events and were left out\n"
    status, out, err = await run(settings, "--job", "j4")
    assert (status, err) == (0, refused)
    assert [json.loads(line)["type"] for line in out.splitlines()] == [
        "job.created",
        "job.active",
        "job.completed",
    ]
    status, out, err = await run(settings, "--state-at", "2026-11-23T13:00:15Z", "--user", "u0")
    jobs = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert {job["id"]: job["state"] for job in jobs} == {
        "j0": "active",
        "j5": "active",
        "j10": "created",
        "j15": "created",
    }
    path = tmp_path / "events.parquet"
    status, out, err = await run(settings, "--to", str(path), "--json")
    told = json.loads(out)
    assert (status, told["file"], told["rows"]) == (0, str(path), parquet.read_table(path).num_rows)
    await write(settings, [("new", json.dumps(event("failed", "new", 0)).encode())])
    status, out, _ = await run(settings, "--since", told["position"])
    assert [json.loads(line)["job_id"] for line in out.splitlines()] == ["new"]
    path = tmp_path / "log.duckdb"
    status, out, err = await run(settings, "--to", str(path))
    assert (status, err) == (0, refused)
    with duckdb.connect(str(path), read_only=True) as database:
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (JOBS + 1,)
    await write(settings, [("new", json.dumps(event("active", "new", 9, attempt=1)).encode())])
    status, out, _ = await run(settings, "--to", str(path), "--since", "last", "--json")
    assert (status, json.loads(out)["rows"]) == (0, 1)
    with duckdb.connect(str(path), read_only=True) as database:
        asked = "SELECT state, events FROM jobs WHERE id = 'new'"
        assert database.execute(asked).fetchall() == [("active", 2)]
    assert (await run(settings, "--to", str(tmp_path / "jobs.xlsx")))[0] == 2
    assert (await run(settings, "--state-at", "soon"))[0] == 2
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix) == [
        "events.parquet",
        "log.duckdb",
    ]


async def test_the_command_reports(settings: Settings, tmp_path: Path) -> None:
    page, figures, picture = (tmp_path / name for name in ("report.html", "csv", "flow.png"))
    status, out, err = await run(
        settings, "--to", str(page), "--csv", str(figures), "--user", "u1",
        "--png", str(picture), "--plot", "flow", name="report",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert {*out.split()} == {str(page), str(picture), *map(str, figures.iterdir())}
    assert "user u1" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert arrived(figures) == JOBS // 5


async def test_a_report_is_of_a_range(settings: Settings, tmp_path: Path) -> None:
    runner = CliRunner(env={"JOBTRAIL_TOPIC": settings.topic})
    servers = ("--bootstrap-servers", settings.bootstrap_servers)

    def report(*options: str) -> tuple[int, str]:
        found = runner.invoke(main, ["report", *servers, *options])
        return found.exit_code, found.stdout

    def of(*options: str) -> int:
        status, out = report("--csv", str(tmp_path), "--json", *options)
        told = json.loads(out)
        assert (status, str(tmp_path / "totals.csv") in told["files"]) == (0, True)
        return arrived(tmp_path)

    def ask() -> None:
        # A date as an end is its last instant; a position as a beginning is one in the log.
        assert of("--until", "2026-11-23") == JOBS
        assert of("--until", "2026-11-23T13:00:09Z") == 10
        assert of("--from", "2026-11-23T13:00:09Z", "--job-type", "t1") == (JOBS - 9) // 2 + 1
        assert 0 < of("--from", "0:999999,1:999999") < JOBS
        page, picture = str(tmp_path / "x.html"), str(tmp_path / "x.png")
        assert report("--to", page, "--png", picture)[0] == 2
        assert report("--to", page, "--from", "yesterday")[0] == 2
        assert report("--png", picture, "--plot", "pie")[0] == 2
        assert report()[0] == 2

    await asyncio.to_thread(ask)


def arrived(folder: Path) -> int:
    """Return how many jobs arrived, as a report's files say."""
    with (folder / "totals.csv").open(newline="") as lines:
        (totals,) = csv.DictReader(lines)
    return int(totals["arrived"])


async def test_the_command_compares(settings: Settings) -> None:
    status, out, err = await run(
        settings, "--from", "2026-11-23T13:00:05Z", "--to", "2026-11-23T13:00:12Z", "--user", "u2",
        name="diff",
    )  # fmt: skip
    assert err == ""
    first, *jobs = [json.loads(line) for line in out.splitlines()]
    assert (status, err, first["changed"]) == (0, "", 3)
    assert {job["id"]: (job["state_before"], job["state_after"]) for job in jobs} == {
        "j2": ("created", "active"),
        "j7": (None, "created"),
        "j12": (None, "created"),
    }
    after = {count["jobType"]: count["after"] for count in first["counts"]}
    assert (after["t0"]["active"], after["t0"]["created"], after["t1"]["created"]) == (1, 1, 1)


async def delete_beginning(settings: Settings, ends: dict[int, int]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        before = {
            TopicPartition(settings.topic, partition): RecordsToDelete(before_offset=end)
            for partition, end in ends.items()
        }
        await admin.delete_records(before)
    finally:
        await admin.close()


def states(settings: Settings, archive: str | None) -> dict[str, str]:
    log = LogSource(settings)
    source = log if archive is None else JoinedSource(ArchiveSource.open(archive), log)
    with Replay(source) as replay:
        return {row["id"]: row["state"] for row in replay.state_at().to_arrow().to_pylist()}


async def test_history_outlives_the_log(settings: Settings, tmp_path: Path) -> None:
    wanted = await asyncio.to_thread(states, settings, None)
    to = str(tmp_path / "archive")
    status, out, err = await run(settings, "--to", to, "--segment-records", "50", "--json",
                                 name="archive")  # fmt: skip
    assert (status, err) == (0, "")
    ends = {int(partition): end for partition, end in json.loads(out)["archived"].items()}
    assert json.loads(out)["records"] == sum(ends.values()) > JOBS
    await delete_beginning(settings, ends)
    assert len(await asyncio.to_thread(states, settings, None)) < len(wanted)
    assert await asyncio.to_thread(states, settings, to) == wanted
    status, out, _ = await run(settings, "--job", "j4", "--archive", to)
    assert (status, len(out.splitlines())) == (0, 3)
    status, out, _ = await run(settings, "--to", to, "--verify", "--json", name="archive")
    assert (status, json.loads(out)["faults"]) == (0, [])
    status, out, _ = await run(settings, "--to", to, "--json", name="archive")
    assert (status, json.loads(out)["records"]) == (0, 0)
