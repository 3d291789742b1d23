"""Ready views of a DuckDB file: the questions that are asked first, answered in plain SQL.

Days and hours are those of UTC. What a view tells is kept in the file too, as its comment:
`SELECT view_name, comment FROM duckdb_views() WHERE NOT internal`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from jobtrail.core.states import ENDED, STATES, State


class View(NamedTuple):
    """A view: its name, what it tells, and its query."""

    name: str
    tells: str
    query: str


def _counts(column: str, names: list[str], indent: str = "  ") -> str:
    lines = (f"{indent}count(*) FILTER ({column} = '{name}') AS {name}" for name in names)
    return ",\n".join(lines)


def _names(*states: State) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _stays(name: str, *states: State) -> str:
    where = f"FILTER (from_state IN ({_names(*states)}))"
    # One sort for all three.
    ranks = f"quantile_disc(seconds, [0.5, 0.9, 0.99]) {where} AS ranks_{name}"
    return f"  count(*) {where} AS {name}, {ranks}, max(seconds) {where} AS {name}_max"


def _ranks(name: str) -> str:
    ranks = [f"ranks_{name}[{at}] AS {name}_p{rank}" for at, rank in enumerate((50, 90, 99), 1)]
    return f"  {name}, {', '.join(ranks)}, {name}_max"


_UTC: Final = 'make_timestamp(epoch_us("time"))'
_ENDED: Final = _names(*(state for state in STATES if state in ENDED))

# The texts below are made of the names of states alone.
VIEWS: Final = (
    View(
        "summary",
        "Jobs per type and state, as GET /jobs/summary counts them for who may see all jobs.",
        f"SELECT job_type, count(*) AS total,\n{_counts('state', sorted(STATES))}\n"
        "FROM jobs GROUP BY job_type ORDER BY job_type NULLS LAST",
    ),
    View(
        "durations",
        "Per type, how often jobs waited (were created or due for another attempt) and ran (were "
        "active), and for how many seconds: percentiles by the nearest rank. Only stays that "
        "are over.",
        f"WITH stays AS (SELECT job_type,\n{_stays('waiting', State.CREATED, State.RETRY)},\n"
        f"{_stays('running', State.ACTIVE)}\nFROM transitions GROUP BY job_type)\n"
        f"SELECT job_type,\n{_ranks('waiting')},\n{_ranks('running')}\n"
        "FROM stays ORDER BY job_type NULLS LAST",
    ),
    View(
        "failures_by_day",
        "Per day and type, the attempts that failed (retry), the jobs that ended as failed or "
        "expired, all that ended, and the share of those that did so badly.",
        f"SELECT CAST({_UTC} AS DATE) AS day, job_type,\n"
        f"{_counts('to_state', ['retry', 'failed', 'expired'])},\n"
        f"  count(*) FILTER (to_state IN ({_ENDED})) AS ended,\n"
        "  round((failed + expired) / nullif(ended, 0), 4) AS share\n"
        "FROM transitions GROUP BY ALL HAVING retry + failed + expired > 0\n"
        "ORDER BY day, job_type NULLS LAST",
    ),
    View(
        "throughput_by_hour",
        "Per hour, how many jobs came into each state. Hours in which none did are left out.",
        f"SELECT date_trunc('hour', {_UTC}) AS hour,\n"
        f"{_counts('to_state', list(STATES))}\n"
        "FROM transitions GROUP BY hour ORDER BY hour",
    ),
    View(
        "longest_running",
        "Jobs that are active, the one that has been for longest first; seconds up to the latest "
        "event of the log, as no clock is asked.",
        "WITH latest AS (SELECT max(logged_at) AS at FROM events),\n"
        'since AS (SELECT job_id, arg_max("time", "offset") AS active_since FROM transitions\n'
        "  WHERE to_state = 'active' GROUP BY job_id)\n"
        "SELECT id, job_type, owner, bulk_id, attempt, progress, active_since,\n"
        "  (epoch_us(latest.at) - epoch_us(active_since)) / 1e6 AS seconds\n"
        "FROM jobs JOIN since ON since.job_id = jobs.id, latest\n"
        "WHERE state = 'active' ORDER BY seconds DESC, id",
    ),
    View(
        "owners",
        "Per owner, the jobs: all, under way, ended well, ended badly; and how many attempts went "
        "beyond the first.",
        "SELECT owner, count(*) AS total,\n"
        f"  count(*) FILTER (state NOT IN ({_ENDED})) AS under_way,\n"
        f"{_counts('state', ['completed', 'failed', 'expired'])},\n"
        "  sum(attempt) AS further_attempts\n"
        "FROM jobs GROUP BY owner ORDER BY total DESC, owner",
    ),
    View(
        "ignored_events",
        "Jobs of which some event was not applied (a duplicate, late, or not allowed), the one "
        "with the most of them first.",
        "SELECT id, job_type, owner, state, events, ignored FROM jobs WHERE ignored > 0\n"
        "ORDER BY ignored DESC, id",
    ),
)
