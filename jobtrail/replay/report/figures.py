"""The figures of a report: small tables, each the answer of one query over the changes.

What is counted is told in `docs/report.md`, in the words that the page has too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from jobtrail.replay.report.changes import Changes
from jobtrail.replay.report.figure import RAN, WAITED, Figure
from jobtrail.replay.report.lengths import distribution, percentiles
from jobtrail.replay.report.lists import oldest, slowest, totals, types, users
from jobtrail.replay.report.over_time import arrivals, flow, rates, rates_by_type

#: Every figure of a report, in its order on the page.
FIGURES: Final[dict[str, Callable[[Changes], Figure]]] = {
    "totals": totals,
    "types": types,
    "arrivals": arrivals,
    "flow": flow,
    "waiting": percentiles("waiting", WAITED),
    "waiting_distribution": distribution("waiting_distribution", WAITED),
    "running": percentiles("running", RAN),
    "running_distribution": distribution("running_distribution", RAN),
    "rates": rates,
    "rates_by_type": rates_by_type,
    "slowest": slowest,
    "oldest": oldest,
    "users": users,
}
