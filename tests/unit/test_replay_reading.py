"""Replay over a log that is a list: what is read, what is refused, which jobs are chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError, UsageError
from jobtrail.core.partitions import partition_of
from jobtrail.replay import Filters, Replay
from jobtrail.replay.events.decoding import Decoder
from jobtrail.replay.export.export import (
    WRITERS,
    check_ending,
    grow_duckdb,
    to_duckdb,
    to_parquet_by_day,
)
from jobtrail.replay.export.files import whole
from jobtrail.replay.schemas import EVENTS, JOBS, RECORDS
from tests.replay_rows import Logged, batch_of, expected

PARTITIONS = 3
NOON = 1_795_438_800_000_000


class ListSource:
    """A log in memory."""

    name = "a list"

    def __init__(self, log: Mapping[int, list[dict[str, Any]]]) -> None:
        self._log = log

    def begins(self) -> dict[int, int]:
        return dict.fromkeys(self._log, 0)

    def ends(self) -> dict[int, int]:
        return {partition: len(records) for partition, records in self._log.items()}

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        for partition, records in self._log.items():
            for at in range(start.get(partition, 0), end[partition], 4):
                some = records[at : min(at + 4, end[partition])]
                yield pa.RecordBatch.from_pylist(some, schema=RECORDS)

    def close(self) -> None:
        self._log = {}


def log_of(written: Sequence[tuple[str, dict[str, Any] | bytes | None, Any]]) -> ListSource:
    """Return a log of (key, event or raw value, headers), a second between two."""
    log: dict[int, list[dict[str, Any]]] = {p: [] for p in range(PARTITIONS)}
    for number, (key, value, headers) in enumerate(written):
        records = log[partition_of(key, PARTITIONS)]
        records.append(
            {
                "partition": partition_of(key, PARTITIONS),
                "offset": len(records),
                "logged_at": NOON + number * 1_000_000,
                "key": key.encode(),
                "value": json.dumps(value).encode() if isinstance(value, dict) else value,
                "headers": headers,
            }
        )
    return ListSource(log)


def event(kind: str, job: str, number: int, **data: Any) -> tuple[str, dict[str, Any], None]:
    found = {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": "//tests",
        "type": f"job.{kind}",
        "subject": job,
        "time": f"2026-11-23T13:00:{number % 60:02}Z",
        "data": data,
    }
    return job, found, None


def life(job: str, number: int, owner: str, job_type: str, **tags: str) -> list[Any]:
    return [
        event("created", job, number, jobType=job_type, owner=owner, tags=tags, viewers=["user:z"]),
        event("active", job, number + 1, worker="w"),
        event("progress", job, number + 2, progress=0.5, message="half"),
        event("retry", job, number + 3, error={"m": [1, 2.50]}, retryAt="2026-11-24T00:00:00Z"),
        event("active", job, number + 4),
        event("failed" if owner == "bob" else "completed", job, number + 5, output={"n": number}),
    ]


LOG = [
    *life("a", 0, "alice", "etl", tenant="acme"),
    ("a", b"no event", None),
    ("b", None, None),
    *life("b", 10, "bob", "etl"),
    ("c", event("created", "other", 30, jobType="t", owner="o")[1], None),
    (
        "c",
        *event("created", "c", 31, jobType="t", owner="o")[1:2],
        [{"name": b"\xff", "value": None}],
    ),
    *life("d", 40, "alice", "report"),
]


@pytest.fixture
def replay() -> Iterator[Replay]:
    with Replay(log_of(LOG)) as opened:
        yield opened


def test_columns_hold_what_accept_takes_and_nothing_else(replay: Replay) -> None:
    logged = [Logged(place, event) for place, event in replay.events()]
    assert (len(logged), replay.refused) == (18, 4)
    wanted = batch_of(logged).to_pylist()
    found = [row for batch in replay.event_batches() for row in batch.to_pylist()]
    assert replay.refused == 4
    for row in found:
        row["details"] = None
    assert found == wanted
    details = [
        json.loads(row["details"])
        for batch in replay.event_batches()
        for row in batch.to_pylist()
        if row["job_id"] == "a" and row["details"]
    ]
    assert details == [{"worker": "w"}, {"message": "half"}, {"retryAt": "2026-11-24T00:00:00Z"}]


def test_a_batch_of_nothing_valid_is_empty() -> None:
    source = log_of([("a", b"{}", None)])
    batch = next(source.read(source.begins(), source.ends()))
    found = Decoder(PARTITIONS).decode(batch)
    assert (len(found.events), found.refused, found.events.schema) == (0, 1, EVENTS)
    with pytest.raises(EventError):
        accept(b"a", b"{}", 0, PARTITIONS)


@pytest.mark.parametrize(
    ("filters", "jobs"),
    [
        (Filters(), {"a", "b", "d"}),
        (Filters(users=("alice",)), {"a", "d"}),
        (Filters(users=("alice",), job_types=("etl",)), {"a"}),
        (Filters(states=("failed",)), {"b"}),
        (Filters(tags={"tenant": "acme"}), {"a"}),
        (Filters(tags={"tenant": "other"}), set()),
        (Filters(job_ids=("d", "none")), {"d"}),
        (Filters(bulk_ids=("none",)), set()),
    ],
)
def test_filters_choose_jobs_and_all_of_their_events(
    replay: Replay, filters: Filters, jobs: set[str]
) -> None:
    assert set(replay.state_at(None, filters).to_arrow()["id"].to_pylist()) == jobs
    assert set(replay.transitions(None, filters).to_arrow()["job_id"].to_pylist()) == jobs
    events = [event.subject for _place, event in replay.events(filters)]
    assert (set(events), len(events)) == (jobs, 6 * len(jobs))
    found = [row for batch in replay.event_batches(filters) for row in batch["job_id"].to_pylist()]
    assert sorted(found) == sorted(events)


def test_an_instant_and_a_position_cut_the_same_fold(replay: Replay) -> None:
    log = [Logged(place, event) for place, event in replay.events()]
    noon = datetime(2026, 11, 23, 13, tzinfo=UTC)
    for second in range(0, 50, 7):
        when = noon.replace(second=second)
        jobs, _ = expected(log, when)
        for given in (when, when.isoformat(), when.replace(tzinfo=None)):
            found = {row["id"]: row for row in replay.state_at(given).to_arrow().to_pylist()}
            assert {k: v["state"] for k, v in found.items()} == {
                k: v["state"] for k, v in jobs.items()
            }
    cut = {partition: end // 2 for partition, end in replay.ends.items()}
    jobs, _ = expected(log, position=cut)
    text = ",".join(f"{partition}:{offset}" for partition, offset in cut.items())
    for position in (cut, text):
        found = {
            row["id"]: row["state"] for row in replay.state_at(position).to_arrow().to_pylist()
        }
        assert found == {k: v["state"] for k, v in jobs.items()}


def test_events_of_a_range(replay: Replay) -> None:
    since, until = "2026-11-23T13:00:11Z", "2026-11-23T13:00:41Z"
    found = sorted(event.id for _, event in replay.events(since=since, until=until))
    assert found == sorted([*(f"e{n}" for n in range(11, 16)), "e40"])
    assert not list(replay.event_batches(since=replay.ends))
    with pytest.raises(UsageError, match="neither an instant nor a position"):
        replay.state_at("yesterday")
    with pytest.raises(UsageError, match="partition"):
        list(replay.events(until={7: 1}))


def test_a_date_alone_is_a_whole_day(replay: Replay) -> None:
    every = sorted(event.id for _, event in replay.events())
    day = "2026-11-23"
    assert sorted(event.id for _, event in replay.events(since=day, until=day)) == every
    assert not list(replay.events(until="2026-11-22"))
    assert not list(replay.events(since="2026-11-24"))
    assert list(replay.events(until="9999-12-31"))
    assert sum(map(len, replay.event_batches(since=day, until=day))) == len(every)
    assert len(replay.state_at(day).to_arrow()) == len(replay.state_at().to_arrow()) > 0
    assert len(replay.state_at("2026-11-22").to_arrow()) == 0


def test_a_position_has_nothing_of_a_partition_that_it_does_not_name(replay: Replay) -> None:
    places = [place for place, _ in replay.events()]
    for partition, end in replay.ends.items():
        found = [place for place, _ in replay.events(until={partition: end})]
        assert found == [place for place in places if place.partition == partition]
        found = {
            row["partition"] for row in replay.state_at({partition: end}).to_arrow().to_pylist()
        }
        assert found <= {partition}
        wanted = {p: end if p == partition else 0 for p in replay.ends}
        assert replay.end_of(f"{partition}:{end + 5}") == wanted
    assert replay.end_of("2026-11-23") == replay.end_of(None) == replay.ends


def test_days_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    lives = [(*life(f"j{n}", n, "alice", "etl"), n % 3) for n in range(40)]
    written = [
        (job, {**body, "time": body["time"].replace("-23T", f"-{20 + day}T")}, headers)
        for *its, day in lives
        for job, body, headers in its
    ]
    replay = Replay(log_of(written))
    with whole(tmp_path / "days.parquet") as draft:
        assert to_parquet_by_day(EVENTS, replay.event_batches(), draft) == len(written)
    folders = sorted(folder.name for folder in (tmp_path / "days.parquet").iterdir())
    assert folders == ["date=2026-11-20", "date=2026-11-21", "date=2026-11-22"]
    query = f"FROM read_parquet('{tmp_path}/days.parquet/*/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        found = database.execute(
            f"SELECT id, job_id, time::DATE = date::DATE {query} ORDER BY job_id, id"
        ).fetchall()
    assert found == sorted(
        ((event.id, event.subject, True) for _, event in replay.events()),
        key=lambda row: (row[1], row[0]),
    )
    table = parquet.read_table(tmp_path / "days.parquet")
    assert table.select(EVENTS.names).schema.names == EVENTS.names
    assert len(table) == len(written)
    with whole(tmp_path / "jobs.parquet") as draft:
        jobs = replay.state_at()
        assert to_parquet_by_day(JOBS, jobs.batches(), draft) == 40


@pytest.mark.parametrize("ending", [".ndjson", ".csv", ".parquet"])
def test_files_hold_every_row(replay: Replay, tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"jobs{ending}"
    jobs = replay.state_at()
    with whole(path) as draft:
        assert WRITERS[check_ending(path)](jobs.schema, jobs.batches(), draft) == 3
    if ending == ".parquet":
        assert parquet.read_table(path).sort_by("id") == jobs.to_arrow().sort_by("id")
    elif ending == ".csv":
        found = csv.read_csv(path).to_pylist()
        assert {row["id"]: json.loads(row["tags"]) for row in found}["a"] == {"tenant": "acme"}
        assert {row["id"]: json.loads(row["output"]) for row in found}["d"] == {"n": 40}
    else:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert {line["id"]: line["output"] for line in lines}["d"] == {"n": 40}
        assert {line["id"]: line["viewers"] for line in lines}["a"] == ["user:z"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text("before")

    def fail() -> None:
        with whole(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("jobs.csv", "before")
    ]
    with pytest.raises(UsageError, match="ending"):
        check_ending(tmp_path / "jobs.xlsx")


def in_database(path: Path) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as database:
        return database.execute("SELECT id, state, events FROM jobs ORDER BY id").fetchall()


def test_a_database_grows_where_it_ended(replay: Replay, tmp_path: Path) -> None:
    path = tmp_path / "log.duckdb"
    with pytest.raises(UsageError, match="Found: none"):
        grow_duckdb(replay, path)
    half = {partition: end // 2 for partition, end in replay.ends.items()}
    first = to_duckdb(replay, path, Filters(), until=half)
    at_half = replay.state_at(half).to_arrow().to_pylist()
    assert sorted(in_database(path)) == sorted((j["id"], j["state"], j["events"]) for j in at_half)
    assert first + grow_duckdb(replay, path) == 18
    assert in_database(path) == [("a", "completed", 6), ("b", "failed", 6), ("d", "completed", 6)]
    assert grow_duckdb(replay, path) == 0
    with Replay(log_of(LOG[:6])) as shorter, pytest.raises(UsageError, match="Found: one at 0:"):
        grow_duckdb(shorter, path)


@pytest.mark.parametrize(
    "chosen",
    [
        {"filters": Filters(users=("bob",))},
        {"since": {0: 2, 1: 2, 2: 2}},
        {"until": datetime(2026, 11, 23, 13, 0, 5, tzinfo=UTC)},
    ],
)
def test_a_database_of_a_part_does_not_grow(
    replay: Replay, tmp_path: Path, chosen: dict[str, Any]
) -> None:
    path = tmp_path / "log.duckdb"
    assert 0 < to_duckdb(replay, path, **{"filters": Filters(), **chosen}) < 18
    with pytest.raises(UsageError, match="a part of one"):
        grow_duckdb(replay, path)


def test_what_is_read_is_told(replay: Replay) -> None:
    seen: list[tuple[int, int]] = []
    replay.progress = lambda done, total: seen.append((done, total))
    list(replay.event_batches())
    assert seen[-1] == (22, 22)


def test_jobs_by_their_ids_take_one_reading(replay: Replay) -> None:
    seen: list[int] = []
    replay.progress = lambda done, _total: seen.append(done)
    found = [event.subject for _, event in replay.events(Filters(job_ids=("b", "d")))]
    assert found == [event.subject for _, event in replay.events() if event.subject in ("b", "d")]
    once = len(seen) // 2
    assert seen[:once] == seen[once:]
    found = [
        event.subject for _, event in replay.events(Filters(job_ids=("b", "d"), users=("bob",)))
    ]
    assert set(found) == {"b"}
    assert len(seen) == 4 * once
