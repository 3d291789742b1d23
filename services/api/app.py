"""Builds a service from its parts; no other module depends on all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from aiohttp import HttpVersion11, hdrs, web

from jobtrail.log.questions import Log
from jobtrail.settings import Settings
from projections.ports.read import ProjectionReader, Watermark
from services.api.access.auth import Gate
from services.api.access.cached_keys import ApiKeys
from services.api.access.provider import Provider
from services.api.feed.feed import Feed, FeedLimits
from services.api.feed.spans import Spans
from services.api.figures import measure
from services.api.http.cursors import Cursors
from services.api.http.outgoing import Outgoing
from services.api.http.response_encoding import ResponseEncoder
from services.api.ingest import Ingest
from services.api.internals.aiohttp_internals import continue_request
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
from services.api.metrics.restarts import measure_restarts
from services.api.problems.problems import unreadable
from services.api.reads.freshness import Freshness
from services.api.reads.past import Past
from services.api.reads.progress import Progress
from services.api.reads.reads import ReadLimits, Reads, brief_meter, long_meter
from services.api.routes import ENDPOINTS
from services.api.routes.fallback import nothing_there, other_method
from services.api.service import SERVICE, Service
from services.api.serving.endpoint import Endpoint
from services.api.serving.serving import serving
from services.api.store import Store
from services.api.waits.waits import WaitLimits, Waits
from services.api.waits.watching import Watch


def make_service(
    settings: Settings,
    *,
    secret: bytes,
    open_reader: Callable[[], ProjectionReader],
    kafka: dict[str, Any],
    timeouts: Timeouts | None = None,
) -> Service:
    """Build a service.

    Args:
        settings: The settings of the process.
        secret: Signs tokens and cursors.
        open_reader: Opens the projections; raises StoreError while they can't be.
        kafka: Keyword arguments for aiokafka: servers and security.
        timeouts: Set by tests; None for those that clients rely on.
    """
    timeouts = timeouts or Timeouts()
    watches: dict[bytes, Watch] = {}
    buffer, verifier, liveness, tail, absence = _make_tail(settings, kafka, watches, timeouts)
    checked = verifier.exclude_foreign
    store = Store(open_reader, checked, brief_meter(settings.max_page_bytes))
    rate = Rate(settings.max_request_rate, settings.max_request_burst)
    reads = Reads(Store(open_reader, checked, long_meter()), ReadLimits.of(settings), rate)
    turns = Turns()
    bodies = Bodies(settings.topic, kafka, verifier)
    waits = Waits(store, buffer, absence, watches, WaitLimits.of(settings), timeouts, turns)
    feed = _make_feed(settings, buffer)
    stalls = Stalls(buffer, settings.ready_stalled_after)
    service = Service(
        store=store,
        stalls=stalls,
        buffer=buffer,
        liveness=liveness,
        absence=absence,
        overlay=Overlay(buffer, settings.max_events_folded),
        feed=feed,
        progress=Progress(store, buffer, feed, stalls, timeouts),
        freshness=Freshness(buffer, liveness, tail.has_pending),
        waits=waits,
        slots=Slots(settings.max_waits, settings.max_waits_per_caller),
        tail=tail,
        ingest=Ingest(settings),
        bodies=bodies,
        spans=_make_spans(settings, store, kafka, verifier),
        reads=reads,
        past=Past(reads, bodies),
        verifier=verifier,
        proofs=Proofs(Log(settings.topic, kafka), verifier, buffer),
        gate=_make_gate(settings, secret, timeouts),
        cursors=Cursors(secret),
        encoder=ResponseEncoder(secret),
        metrics=Metrics(),
        timeouts=timeouts,
        bounds=Bounds.of(settings),
        rate=rate,
        turns=turns,
        outgoing=Outgoing(settings.max_outgoing_bytes, settings.max_outgoing_bytes_per_caller),
    )
    return _connected(service, settings)


def _make_tail(
    settings: Settings, kafka: dict[str, Any], watches: dict[bytes, Watch], timeouts: Timeouts
) -> tuple[Buffer, LogVerifier, LogLiveness, Tail, AbsenceCheck]:
    """Build the parts that follow the log."""
    buffer = Buffer(settings.tail_buffer_bytes)
    verifier = LogVerifier(settings.topic, kafka, buffer, timeouts)
    liveness = LogLiveness(timeouts)
    tail = Tail(settings.topic, kafka, buffer, watches, liveness, verifier, timeouts)
    return buffer, verifier, liveness, tail, AbsenceCheck(buffer, liveness, tail.has_pending)


def _make_feed(settings: Settings, buffer: Buffer) -> Feed:
    limits = FeedLimits(settings.max_feeds, settings.max_feeds_per_caller)
    return Feed(buffer, limits, settings.feed_buffer_bytes // 2)


def _make_spans(
    settings: Settings, store: Store, kafka: dict[str, Any], verifier: LogVerifier
) -> Spans:
    # A consumer of their own, so that histories and listeners do not wait for each other.
    bodies = Bodies(settings.topic, kafka, verifier)
    return Spans(bodies, store, settings.feed_buffer_bytes // 2)


def _connected(service: Service, settings: Settings) -> Service:
    """Connect the parts that call each other, and register the metrics of all of them."""
    service.progress.listen(service.waits.resync)
    service.tail.listen(service.progress.need, partial(_on_loss, service))
    service.waits.listen(service.progress.need)
    service.buffer.listen(service.overlay.index_audiences)
    measure(service)
    measure_restarts(service.metrics, settings.data_dir)
    return service


def _make_gate(settings: Settings, secret: bytes, timeouts: Timeouts) -> Gate:
    provider = Provider(settings, timeouts) if settings.oidc_issuer else None
    return Gate(
        secret, provider, ApiKeys(settings.keys_path, timeouts.keys_check), timeouts.reverify
    )


def _on_loss(service: Service, partition: int, watermark: Watermark, replaced: bool) -> None:
    service.waits.lose(partition, watermark, replaced=replaced)
    service.feed.lose(partition, replaced=replaced)
    if replaced:
        service.spans.forget()
        service.overlay.forget()


def make_app(service: Service) -> web.Application:
    """Return the application of a service. It follows the log while it runs."""
    app = web.Application(client_max_size=service.bounds.body)
    app[SERVICE] = service
    for endpoint in ENDPOINTS:
        resource = app.router.add_resource(_pattern(endpoint.path), name=endpoint.name)
        methods = ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)
        serve = serving(service, endpoint)
        for method in methods:
            resource.add_route(method, serve, expect_handler=_expect)
        _add_fallback(resource, service, other_method(endpoint.path, methods))
    _add_fallback(app.router.add_resource("/{path:.*}"), service, nothing_there("/{path:.*}"))
    app.cleanup_ctx.append(_follow_log)
    app.on_shutdown.append(_end_waits)
    return app


def _pattern(path: str) -> str:
    """Return a path as aiohttp matches it: a value in it may contain braces."""
    return re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", path)


def _add_fallback(resource: web.Resource, service: Service, endpoint: Endpoint) -> None:
    resource.add_route("*", serving(service, endpoint), expect_handler=_expect)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect: 100-continue` with 100, and any other expectation with 417."""
    if request.version == HttpVersion11:
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            return unreadable(417).response()
        await continue_request(request)
    return None


async def _follow_log(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    running = (
        service.tail.run(),
        service.progress.run(),
        service.verifier.run(service.store),
        service.gate.prepare(),
    )
    tasks = [asyncio.create_task(each) for each in running]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await service.gate.close()
    await service.ingest.close()
    await service.spans.close()
    await service.bodies.close()
    await service.proofs.close()
    service.reads.close()
    service.store.close()


async def _end_waits(app: web.Application) -> None:
    app[SERVICE].waits.close()
    app[SERVICE].progress.close()
    app[SERVICE].feed.close()
