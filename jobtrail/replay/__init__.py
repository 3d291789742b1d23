"""Replay: read the log as analysts do, ask what was true at any instant or position.

```python
with Replay.open() as replay:
    jobs = replay.state_at("2026-11-23T13:00:00Z").to_polars()
    replay.transitions(filters=Filters(users=("alice",))).to_duckdb(connection, "transitions")
```

It needs `pip install 'jobtrail[replay]'`.
"""

from jobtrail.replay.filters import Filters
from jobtrail.replay.replay import LoggedEvent, Replay
from jobtrail.replay.tables import Table

__all__ = ["Filters", "LoggedEvent", "Replay", "Table"]
