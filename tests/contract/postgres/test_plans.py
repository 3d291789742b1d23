"""A page is read in the order of an index, and no more of it than the page needs."""

from __future__ import annotations

from typing import Any

import pytest

from projections.ports.read import Cursor, Filters
from projections.postgres.listing import Listing
from tests.contract.postgres_store import PostgresStore
from tests.contract.store_feeding import fill
from tests.contract.store_streams import BASE, Log

PAGE = 20
#: So few, as nobody sorts what they can read in order.
JOBS = 1_000


def scans(plan: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the steps of a plan that read jobs, with how many rows each brings at a time."""
    found = [scan for inner in plan.get("Plans", ()) for scan in scans(inner)]
    if plan.get("Relation Name") == "jobs":
        found.append((plan["Node Type"], plan["Actual Rows"]))
    return found


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("of", ["all", "an audience", "a bulk"])
async def test_a_page_reads_as_many_jobs_as_it_has(
    store: PostgresStore, analyzed: bool, of: str
) -> None:
    log = Log()
    for number in range(JOBS):
        log.tell("created", f"job-{number}", BASE + number, owner="alice", bulkId="b")
    await fill(store, log, most=JOBS, again=0.0)
    with store.connect() as connection:
        if analyzed:
            connection.execute("ANALYZE")
        (alice,) = connection.execute(
            "SELECT audience FROM audiences WHERE owner = 'alice'"
        ).fetchone() or (0,)
    filters = Filters(bulk_id="b" if of == "a bulk" else None)
    with store.reader()._session.use() as connection:
        listing = Listing(connection, None if of == "all" else [alice], filters)
        after = Cursor(BASE + JOBS // 2, "job-5")
        values = {
            **listing._values,
            "after": -after.created_at,
            "after_id": after.id,
            "most": PAGE,
        }
        explain = b"EXPLAIN (ANALYZE, FORMAT JSON) " + listing._text
        ((plans,),) = connection.execute(explain, values).fetchall()
    assert scans(plans[0]["Plan"]) == [("Index Scan", PAGE)]
