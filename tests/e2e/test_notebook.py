"""The notebook of the docs, run against a log, is what the report says of the same log."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from jobtrail.core import events as ev
from jobtrail.local.demo import life
from jobtrail.processes.runtime import child_environment
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.conftest import MakeLog

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "history.ipynb"
JOBS = 150
#: What only the report's figure and the notebook's own SQL say, each by itself.
CHECKS = """
import json

figures = {name: report.figures[name].rows for name in ("types", "waiting", "running", "totals")}
own = {row["phase"] + row["job_type"]: [row[p] for p in ("times", "p50", "p90", "p99", "longest")]
       for row in lengths.to_dicts()}
print(json.dumps([figures, own, len(jobs), by_type.to_dicts(), over_time["arrived"].sum(),
                  over_time["ended"].sum()]))
"""


async def fill(settings: Settings) -> None:
    chance = random.Random(7)
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    async with LogWriter(settings) as writer:
        for number in range(JOBS):
            begin = noon + timedelta(seconds=chance.uniform(0, 600))
            for after, kind, data in life(chance):
                event = kind(
                    specversion="1.0",
                    id=f"{number}.{after}.{kind.__name__}",
                    source="//tests",
                    subject=f"job-{number}",
                    time=begin + timedelta(seconds=after),
                    data=data,
                )
                await writer.append(event.subject, ev.encode(event))
        await writer.settle()


def execute(settings: Settings, folder: Path) -> Any:
    """Run the notebook and then the checks; return what those print."""
    # Nothing of whoever runs the tests.
    own = {name: str(folder) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")}
    root = str(NOTEBOOK.parents[2])
    environment = {**child_environment(settings), **own, "PYTHONPATH": root}
    # A kernel takes the first folder off the path, which it takes for the current one.
    del environment["PYTHONSAFEPATH"]
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS))
    client = NotebookClient(notebook, timeout=120, kernel_name="python3")
    with client.setup_kernel(env=environment):
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    plots = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(plots) == 2
    return json.loads(notebook.cells[-1].outputs[0].text)


async def test_the_notebook_runs_and_agrees_with_the_report(
    make_log: MakeLog, tmp_path: Path
) -> None:
    settings = await make_log()
    await fill(settings)
    figures, own, jobs, by_type, arrived, ended = await asyncio.to_thread(
        execute, settings, tmp_path
    )
    assert jobs == arrived == JOBS
    (totals,) = figures["totals"]
    assert ended == sum(totals[5:9])
    assert {row[0]: row[1] for row in figures["types"]} == {
        row["job_type"]: sum(value for name, value in row.items() if name != "job_type")
        for row in by_type
    }
    for phase in ("waiting", "running"):
        for job_type, stays, _total, *lengths in figures[phase][1:]:
            assert own[phase + job_type] == [stays, *lengths]
