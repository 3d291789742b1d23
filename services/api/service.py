"""The parts of a service, which every endpoint receives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from services.api.access.auth import Gate
from services.api.feed.feed import Feed
from services.api.feed.spans import Spans
from services.api.http.cursors import Cursors
from services.api.http.outgoing import Outgoing
from services.api.http.response_encoding import ResponseEncoder
from services.api.ingest import Ingest
from services.api.limits.limits import Bounds, Rate, Timeouts
from services.api.limits.slots import Slots
from services.api.limits.turns import Turns
from services.api.live.absence import AbsenceCheck, LogLiveness
from services.api.live.bodies import Bodies
from services.api.live.buffer import Buffer
from services.api.live.log_verifier import LogVerifier
from services.api.live.overlay import Overlay
from services.api.live.proofs import Proofs
from services.api.live.stalls import Stalls
from services.api.live.tail import Tail
from services.api.metrics.metrics import Metrics
from services.api.reads.freshness import Freshness
from services.api.reads.past import Past
from services.api.reads.progress import Progress
from services.api.reads.reads import Reads
from services.api.store import Store
from services.api.waits.waits import Waits


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one API process."""

    store: Store
    stalls: Stalls
    buffer: Buffer
    liveness: LogLiveness
    absence: AbsenceCheck
    overlay: Overlay
    feed: Feed
    progress: Progress
    freshness: Freshness
    waits: Waits
    slots: Slots
    verifier: LogVerifier
    proofs: Proofs
    tail: Tail
    ingest: Ingest
    reads: Reads
    past: Past
    bodies: Bodies
    spans: Spans
    gate: Gate
    cursors: Cursors
    encoder: ResponseEncoder
    metrics: Metrics
    timeouts: Timeouts
    bounds: Bounds
    rate: Rate
    turns: Turns
    outgoing: Outgoing
    #: Set once the process is told to stop: it answers all the same, and is not ready any more.
    draining: asyncio.Event = field(default_factory=asyncio.Event)


SERVICE: Final = web.AppKey("service", Service)
