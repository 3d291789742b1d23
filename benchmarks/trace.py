"""The Google trace of 2011 as a log: real traffic, where it lies beside the checkout."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from benchmarks.sending import topics
from benchmarks.stage import Stage, run_to_end
from tests.trace_part import first_rows

TRACE: Final = Path(__file__).parents[2] / "shared" / "data" / "google-2011-job-events-part1.csv.gz"
ROWS: Final = 1_007_362


async def imported(stage: Stage, rows: int = ROWS) -> str | None:
    """Return the topic that holds the first rows of the trace; None where there is no trace.

    They are imported unless they are there.
    """
    if not TRACE.exists():
        return None
    prefix = f"trace-{rows}-"
    servers = await stage.bootstrap_servers()
    for topic, records in (await topics(servers, prefix)).items():
        if records == rows:
            return topic
    settings = await stage.settings(topic=f"{prefix}{uuid.uuid4().hex[:6]}")
    stage.say(f"importing {rows:,} rows of the trace")
    part = TRACE if rows == ROWS else first_rows(TRACE, settings.data_dir, rows)
    await run_to_end(["-m", "jobtrail", "import", "google-2011", str(part)], settings)
    records = (await topics(servers, settings.topic))[settings.topic]
    if records != rows:
        raise RuntimeError(f"{rows} rows were imported, the log has {records}")
    return settings.topic
