"""What a service is made of, put together in one place and handed to the endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from services.api.auth import Gate
from services.api.bodies import Bodies
from services.api.buffer import Buffer
from services.api.cursors import Cursors
from services.api.delivery import Delivery
from services.api.feed import Feed
from services.api.freshness import Freshness
from services.api.ingest import Ingest
from services.api.limits import Bounds, Patience, Rate
from services.api.metrics import Metrics
from services.api.overlay import Overlay
from services.api.past import Past
from services.api.progress import Progress
from services.api.store import Store
from services.api.tail import Tail
from services.api.waits import Waits


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one API process."""

    store: Store
    buffer: Buffer
    overlay: Overlay
    feed: Feed
    progress: Progress
    freshness: Freshness
    waits: Waits
    tail: Tail
    ingest: Ingest
    past: Past
    bodies: Bodies
    gate: Gate
    cursors: Cursors
    delivery: Delivery
    metrics: Metrics
    patience: Patience
    bounds: Bounds
    rate: Rate


SERVICE: Final = web.AppKey("service", Service)
