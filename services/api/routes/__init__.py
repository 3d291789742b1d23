"""The endpoints: one module each, and the table of all of them."""

from __future__ import annotations

from typing import Final

from services.api.routes import bulk, docs, feed, health, ingest, job, search, statuses, summary
from services.api.serving.endpoint import Endpoint

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    bulk.ENDPOINT,
    search.ENDPOINT,
    summary.ENDPOINT,
    statuses.ENDPOINT,
    feed.ENDPOINT,
    job.JOB,
    job.HISTORY,
    job.JOB_BY_ID,
    job.HISTORY_BY_ID,
    ingest.ENDPOINT,
    health.HEALTHZ,
    health.READYZ,
    health.METRICS,
    docs.describing(lambda: ENDPOINTS),
    docs.PAGE,
    docs.ASSET,
)
