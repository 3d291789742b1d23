"""`jobtrail import csv` on a real log: rows become events once, whatever interrupts it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from jobtrail.core.position import format_position
from jobtrail.core.states import State
from jobtrail.importing.checkpoint import Done
from jobtrail.importing.running import CHECKPOINT_ROWS
from jobtrail.processes.runtime import child_environment
from jobtrail.produce.delivery import MAX_UNDER_WAY
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.service import command
from tests.e2e.test_emit import Outcome, outcome, prepared
from tests.e2e.test_import import jobs
from tests.faults.flows import read_log, until
from tests.processes import Process

MAPPING: Final = """
source = "//shop"
[[event]]
name = "shop"
type = { column = "what", values = { new = "created", end = "completed" } }
job = "id"
time = "at"
job_type = "{queue}/mail"
owner = { constant = "alice" }
"""
Rows = Sequence[dict[str, Any]]


def shop(count: int) -> list[dict[str, Any]]:
    """Return rows of jobs that are made and then end, two of each."""
    return [
        {
            "id": n // 2,
            "queue": "q",
            "at": f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z",
            "what": "end" if n % 2 else "new",
        }
        for n in range(count)
    ]


def mapping(settings: Settings, text: str = MAPPING) -> Path:
    file = settings.data_dir / "map.toml"
    file.write_text(text)
    return file


def csv_of(rows: Rows) -> bytes:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    return "\n".join(lines).encode() + b"\n"


def written(settings: Settings, name: str, content: bytes) -> Path:
    file = settings.data_dir / name
    file.write_bytes(content)
    return file


def importing(settings: Settings, *arguments: object) -> Process:
    environment = child_environment(settings)
    return prepared(settings.data_dir, environment, "import", "csv", *map(str, arguments))


async def imported(settings: Settings, *arguments: object) -> Outcome:
    """Run an import to its end."""
    process = importing(settings, *arguments)
    await process.spawn()
    return await outcome(process)


async def test_an_extended_file_adds_only_what_is_new(make_log: MakeLog) -> None:
    settings, rows = await make_log(), shop(7)
    by, file = mapping(settings), written(settings, "rows.csv", csv_of(rows[:4]))
    assert (await imported(settings, file, "--map", by)).status == 0
    once, _ = await jobs(settings)
    written(settings, "rows.csv", csv_of([*rows[4:], *rows[:4]]))
    found = await imported(settings, file, "--map", by)
    assert (found.status, found.out[:22]) == (0, "7 events acknowledged,")
    twice, judged = await jobs(settings)
    assert {job: twice[job] for job in once} == once
    assert (judged["applied"], judged["duplicate"], len(twice)) == (7, 4, 4)


async def test_kill_9_and_the_same_command_again_lose_and_repeat_nothing(
    make_log: MakeLog,
) -> None:
    """But what was acknowledged and not in the checkpoint yet."""
    settings, rows = await make_log(), shop(30_000)
    # A row that can't be used here and there, for the report.
    for number in range(500, len(rows), 1000):
        rows[number] = {**rows[number], "what": "odd"}
    file, rejects = written(settings, "rows.csv", csv_of(rows)), settings.data_dir / "rejects"
    arguments = (file, "--map", mapping(settings), "--rejects", rejects, "--json")

    def checkpoint() -> Done | None:
        states = list((settings.data_dir / "imports").glob("*.json"))
        return msgspec.json.decode(states[0].read_bytes(), type=Done) if states else None

    process = importing(settings, *arguments)
    await process.spawn()
    await until(lambda: checkpoint() is not None, "the import has a checkpoint")
    await process.kill()
    assert process.child.returncode == -9
    state = checkpoint()
    assert state is not None
    assert 0 < state.rows < len(rows)
    assert state.refused == state.rows // 1000

    found = await imported(settings, *arguments)
    said, log = json.loads(found.out), await read_log(settings)
    assert f"it continues after {state.rows} rows" in found.err
    assert found.status == 1
    assert said["rowsBefore"] == state.rows
    assert said["rows"] == len(rows) - state.rows
    assert said["refused"] == 30
    assert said["acknowledged"] == said["rows"] - (30 - state.refused)
    assert said["position"] == format_position(log.ends())
    reported = [json.loads(line)["line"] for line in rejects.read_text().splitlines()]
    assert reported == list(range(502, len(rows), 1000))
    assert checkpoint() is None

    found_rows = Counter(
        (json.loads(record.value)["subject"], json.loads(record.value)["type"])
        for part in log.records.values()
        for record in part
    )
    expected = [
        (str(line["id"]), "job.created" if line["what"] == "new" else "job.completed")
        for line in rows
    ]
    good = [line["what"] != "odd" for line in rows]
    assert set(found_rows) == {key for key, sent in zip(expected, good, strict=True) if sent}
    before = zip(expected[: state.rows], good, strict=False)
    assert {found_rows[key] for key, sent in before if sent} == {1}
    assert len(log) - len(found_rows) <= MAX_UNDER_WAY + CHECKPOINT_ROWS
    folded, judged = await jobs(settings)
    assert {job.state for job in folded.values()} == {State.COMPLETED}
    assert judged["applied"] == len(found_rows)
    assert judged["duplicate"] == len(log) - len(found_rows)


async def test_progress_is_shown_on_a_terminal(make_log: MakeLog) -> None:
    settings = await make_log()
    file = written(settings, "rows.csv", csv_of(shop(20_000)))
    argv = command("import", "csv", str(file), "--map", str(mapping(settings)), "--dry-run")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.extend(chunk)
        except OSError:  # so ends a terminal on Linux
            os.close(ours)

    await asyncio.gather(process.communicate(), asyncio.to_thread(read))
    assert process.returncode == 0
    assert b"rows read" in shown
    assert re.search(rb"20000/\?", shown)
    assert re.search(rb"[\d,]+/s", shown)
