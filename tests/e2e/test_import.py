"""`jobtrail import google-2011` on small files: each row becomes its event, once, or is named."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from jobtrail.core.events import Created, Event, Progress, decode
from jobtrail.core.job import Job
from jobtrail.core.position import format_position
from jobtrail.core.states import State
from jobtrail.importing.google_2011 import COLUMNS
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.test_emit import Outcome, outcome, prepared
from tests.faults.flows import fold_of, read_log

HEADER: Final = ",".join(COLUMNS)
#: When the trace's clock shows 0.
START: Final = datetime(2011, 5, 1, 22, 50, tzinfo=UTC)
SUBMIT, SCHEDULE, EVICT, FAIL, FINISH, KILL, LOST, PENDING, RUNNING = range(9)

#: Time, job and event type of each row, and the type and attempt of its event.
ROWS: Final = [
    (0, 11, SUBMIT, "created", 0),
    (1_000_000, 11, SCHEDULE, "active", 0),
    (1_000_001, 11, RUNNING, "progress", 0),
    (9_000_000, 11, FINISH, "completed", 0),
    (2_000_000, 12, SUBMIT, "created", 0),
    (2_000_000, 12, PENDING, "progress", 0),
    (2_000_000, 12, SCHEDULE, "active", 0),
    (2_000_000, 12, EVICT, "retry", 0),
    (2_000_000, 12, SCHEDULE, "active", 0),
    (3_000_000, 12, LOST, "expired", 0),
    (4_000_000, 13, SUBMIT, "created", 0),
    (5_000_000, 13, SCHEDULE, "active", 0),
    (6_000_000, 13, FAIL, "failed", 0),
    (7_000_000, 13, SUBMIT, "created", 1),
    (8_000_000, 13, SCHEDULE, "active", 1),
    (4_000_000, 14, SUBMIT, "created", 0),
    (86_400_000_000, 14, KILL, "cancelled", 0),
    (5_000_000, 15, SCHEDULE, "active", 0),
]


def row(time_us: object, job: object, kind: object, *rest: object) -> str:
    """Return a row of a file; who, class and name are those of every row unless told."""
    return ",".join(map(str, (time_us, job, kind, *(rest or ("u1", 2, "sort")))))


def part(folder: Path, rows: Sequence[str | bytes], name: str = "part.csv") -> Path:
    """Write a file of the trace."""
    lines = [line.encode() if isinstance(line, str) else line for line in (HEADER, *rows)]
    file = folder / name
    content = b"".join(line + b"\n" for line in lines)
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return file


async def google(settings: Settings, *arguments: object) -> Outcome:
    """Run the import into a log."""
    command = prepared(
        settings.data_dir,
        child_environment(settings),
        *("import", "google-2011"),
        *map(str, arguments),
    )
    await command.spawn()
    return await outcome(command)


async def events(settings: Settings) -> dict[str, list[Event]]:
    """Return the events of each job in a log, in order."""
    found: dict[str, list[Event]] = {}
    for records in (await read_log(settings)).records.values():
        for record in records:
            event = decode(record.value)
            assert record.key == event.subject.encode()
            found.setdefault(event.subject, []).append(event)
    return found


async def jobs(settings: Settings) -> tuple[dict[str, Job], dict[str, int]]:
    """Return the fold of a log without its trails, and how its records were judged."""
    model = fold_of(await read_log(settings))
    tallies = [tally._asdict() for tally in model.tallies().values()]
    judged = {name: sum(tally[name] for tally in tallies) for name in tallies[0]}
    return {job.id: msgspec.structs.replace(job, trail=b"") for job in model.jobs.values()}, judged


async def test_every_row_becomes_its_event(make_log: MakeLog) -> None:
    settings = await make_log()
    rows = [row(*line[:3]) for line in ROWS]
    found = await google(settings, part(settings.data_dir, rows))
    position = format_position(
        {p: end for p, end in (await read_log(settings)).ends().items() if end}
    )
    assert found == (0, f"{len(ROWS)} events acknowledged, position {position}\n", "")
    for job, sent in (await events(settings)).items():
        expected = [
            (f"job.{kind}", attempt, START + timedelta(microseconds=time_us))
            for time_us, number, _, kind, attempt in ROWS
            if str(number) == job
        ]
        assert [
            (event.__struct_config__.tag, event.data.attempt, event.time) for event in sent
        ] == expected
        assert len({event.id for event in sent}) == len(sent)
        for event in sent:
            if isinstance(event, Created):
                data = event.data
                assert (data.job_type, data.owner, data.bulk_id, data.viewers, data.tags) == (
                    "scheduling-class-2", "u1", "sort", (), {"logicalName": "sort"},
                )  # fmt: skip
            elif isinstance(event, Progress):
                assert event.data.progress is None
    folded, _ = await jobs(settings)
    assert {job: (found.state, found.attempt) for job, found in folded.items()} == {
        "11": (State.COMPLETED, 0),
        "12": (State.EXPIRED, 0),
        "13": (State.ACTIVE, 1),
        "14": (State.CANCELLED, 0),
        "15": (State.ACTIVE, 0),
    }
    assert folded["15"].owner is None


async def test_importing_again_changes_no_job(make_log: MakeLog) -> None:
    """Plain or gzipped, in one file or in two; even of rows that are the same byte for byte."""
    settings = await make_log()
    rows = [row(*line[:3]) for line in (*ROWS, ROWS[-1], ROWS[-1])]
    plain = part(settings.data_dir, rows)
    zipped = part(settings.data_dir, rows[:9], "a.csv.gz"), part(settings.data_dir, rows[9:], "b")
    assert (await google(settings, plain)).status == 0
    once, judged = await jobs(settings)
    assert judged["duplicate"] == judged["dead"] == 0
    found = await google(settings, *zipped, "--json")
    assert (found.status, found.err) == (0, "")
    said = json.loads(found.out)
    assert said["acknowledged"] == len(rows)
    assert said["refused"] == 0
    assert "," in said["position"]
    twice, again = await jobs(settings)
    assert twice == once
    assert again == {**judged, "duplicate": len(rows)}


async def test_rows_that_cant_be_used_are_named_and_the_rest_is_sent(make_log: MakeLog) -> None:
    settings = await make_log()
    good = [row(*line[:3]) for line in ROWS[:2]]
    rows: list[str | bytes] = [
        good[0],
        row(1, 11, 9),
        row("soon", 11, SCHEDULE),
        row(2**63 - 1, 11, SCHEDULE),
        "1,11,1",
        row(1, 16, SUBMIT, "", 2, "sort"),
        row(1, "x" * 257, SUBMIT),
        good[1],
    ]
    file = part(settings.data_dir, rows)
    found = await google(settings, file)
    assert found.status == 1
    assert found.out.startswith("2 events acknowledged, position ")
    *named, total = found.err.splitlines()
    assert [line.split(": ")[0] for line in named] == [
        f"{file}, line {number}" for number in range(3, 9)
    ]
    assert total == "6 rows refused"
    assert list(await events(settings)) == ["11"]


async def test_bytes_that_are_no_text_cost_their_row_only(make_log: MakeLog) -> None:
    settings = await make_log()
    good = [row(*line[:3]) for line in ROWS[:2]]
    large = row(1, 11, SCHEDULE, "u" * 200_000, 2, "sort")
    file = part(settings.data_dir, [good[0], b"1,16,0,\xff\xfe,2,sort", large, good[1]])
    found = await google(settings, file)
    assert "Traceback" not in found.err
    assert found.status == 1
    assert found.out.startswith("2 events acknowledged, position ")
    assert [line.split(": ")[0] for line in found.err.splitlines()] == [
        f"{file}, line 3", f"{file}, line 4", "2 rows refused",
    ]  # fmt: skip


async def test_a_file_that_ends_too_early_is_said_and_what_it_held_is_sent(
    make_log: MakeLog,
) -> None:
    settings = await make_log()
    file = part(settings.data_dir, [row(n, n, SUBMIT) for n in range(5000)], "cut.csv.gz")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    found = await google(settings, file)
    assert "Traceback" not in found.err
    assert found.status == 1
    sent = sum(map(len, (await events(settings)).values()))
    assert sent > 1000
    assert found.out.startswith(f"{sent} events acknowledged, position ")
    assert f"{file}, line {sent + 1}: the file is cut or damaged" in found.err


async def test_what_is_no_part_of_the_trace_is_refused(make_log: MakeLog) -> None:
    settings = await make_log()
    other = settings.data_dir / "other.csv"
    other.write_text("time,job\n1,2\n")
    empty = settings.data_dir / "empty.csv"
    empty.touch()

    async def refused(*arguments: Any) -> str:
        found = await google(settings, *arguments)
        assert (found.status, found.out) == (2, ""), found
        assert "Traceback" not in found.err
        return found.err

    said = await asyncio.gather(
        refused(other), refused(empty), refused(settings.data_dir / "none.csv"), refused()
    )
    for text, file in zip(said[:2], (other, empty), strict=True):
        assert text.startswith("error: This is no file of job events of the Google trace.")
        assert f"Where: {file}." in text
        assert HEADER in text
    assert "none.csv" in said[2]
    assert await events(settings) == {}


async def test_nothing_but_a_header_is_no_fault(make_log: MakeLog) -> None:
    settings = await make_log()
    file = part(settings.data_dir, [])
    found, as_json = await asyncio.gather(google(settings, file), google(settings, file, "--json"))
    assert found == (0, "0 events acknowledged\n", "")
    assert json.loads(as_json.out) == {"acknowledged": 0, "refused": 0, "position": None}


async def test_waiting_for_projections_needs_a_service(make_log: MakeLog) -> None:
    settings = await make_log()
    found = await google(settings, part(settings.data_dir, [row(0, 1, SUBMIT)]), "--wait")
    assert (found.status, found.out) == (1, "")
    assert found.err.startswith("error: No local service is running.")
    assert await events(settings) == {}
