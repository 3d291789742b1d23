"""The notebook in docs runs from its first cell to its last, and finds what is in the log."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.test_replay import event, write

JOBS = 40
NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "history.ipynb"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return what a kernel gets: none of our settings but those of the log."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("JOBTRAIL_")}
    places = {name: str(tmp_path) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")}
    return {**ours, **places, "JOBTRAIL_DATA_DIR": str(tmp_path), "MPLBACKEND": "agg"}


def life() -> list[dict[str, Any]]:
    """Return the events of some jobs; all of them wait for 10 s."""
    found = []
    for n in range(JOBS):
        found.append(event("created", f"j{n}", n, jobType="etl", owner=f"u{n % 5}"))
        found.append(event("active", f"j{n}", n + 10))
        found.append(event("failed" if n % 4 == 0 else "completed", f"j{n}", n + 20 + n % 7))
    return found


def texts(notebook: nbformat.NotebookNode) -> Iterator[str]:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield output.get("text", "") or output.get("data", {}).get("text/plain", "")


async def test_the_notebook_runs(make_log: MakeLog, environment: dict[str, str]) -> None:
    settings: Settings = await make_log()
    await write(settings, [(e["subject"], json.dumps(e).encode()) for e in life()])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "keep it without outputs"
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    log = {
        "JOBTRAIL_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "JOBTRAIL_TOPIC": settings.topic,
    }
    await client.async_execute(env={**environment, **log})
    shown = "\n".join(texts(notebook))
    assert settings.topic in shown
    assert re.search(rf"waiting\W+{JOBS}\W+\[10\.0", shown)
    assert "Created" in shown
