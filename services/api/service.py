"""What a service is made of, put together in one place and handed to the endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from services.api.auth import Gate
from services.api.bodies import Bodies
from services.api.buffer import Buffer
from services.api.coverage import Coverage, Pulse
from services.api.cursors import Cursors
from services.api.delivery import Delivery
from services.api.feed import Feed
from services.api.freshness import Freshness
from services.api.ingest import Ingest
from services.api.limits import Bounds, Patience, Rate
from services.api.metrics import Metrics
from services.api.outgoing import Outgoing
from services.api.overlay import Overlay
from services.api.past import Past
from services.api.progress import Progress
from services.api.proofs import Proofs
from services.api.reads import Reads
from services.api.slots import Slots
from services.api.spans import Spans
from services.api.standing import Standing
from services.api.store import Store
from services.api.tail import Tail
from services.api.turns import Turns
from services.api.waits import Waits
from services.api.witness import Witness


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one API process."""

    store: Store
    standing: Standing
    buffer: Buffer
    pulse: Pulse
    coverage: Coverage
    overlay: Overlay
    feed: Feed
    progress: Progress
    freshness: Freshness
    waits: Waits
    slots: Slots
    witness: Witness
    proofs: Proofs
    tail: Tail
    ingest: Ingest
    reads: Reads
    past: Past
    bodies: Bodies
    spans: Spans
    gate: Gate
    cursors: Cursors
    delivery: Delivery
    metrics: Metrics
    patience: Patience
    bounds: Bounds
    rate: Rate
    turns: Turns
    outgoing: Outgoing


SERVICE: Final = web.AppKey("service", Service)
