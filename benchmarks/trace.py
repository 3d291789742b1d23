"""The Google trace of 2011 as a log: real traffic, where it lies beside the checkout."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from benchmarks.sending import topics
from benchmarks.stage import Stage, run_to_end

TRACE: Final = Path(__file__).parents[2] / "shared" / "data" / "google-2011-job-events-part1.csv.gz"
ROWS: Final = 1_007_362


async def imported(stage: Stage) -> str | None:
    """Return the topic that holds the trace; import it unless it is there; None without a trace."""
    if not TRACE.exists():
        return None
    prefix = f"trace-{ROWS}-"
    servers = await stage.bootstrap_servers()
    for topic, records in (await topics(servers, prefix)).items():
        if records == ROWS:
            return topic
    settings = await stage.settings(topic=f"{prefix}{uuid.uuid4().hex[:6]}")
    stage.say(f"importing {ROWS:,} rows of the trace")
    await run_to_end(["-m", "jobtrail", "import", "google-2011", str(TRACE)], settings)
    records = (await topics(servers, settings.topic))[settings.topic]
    if records != ROWS:
        raise RuntimeError(f"{ROWS} rows were imported, the log has {records}")
    return settings.topic
