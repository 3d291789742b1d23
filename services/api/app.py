"""Puts a service together: the only place that knows all of its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from jobtrail.settings import Settings
from projections.reading import Held, ProjectionReader
from services.api.auth import Gate
from services.api.bodies import Bodies
from services.api.buffer import Buffer
from services.api.cursors import Cursors
from services.api.delivery import Delivery
from services.api.endpoint import Endpoint
from services.api.feed import Feed
from services.api.feed import Limits as FeedLimits
from services.api.figures import measure
from services.api.freshness import Freshness
from services.api.ingest import Ingest
from services.api.keys import Keys
from services.api.limits import Bounds, Patience, Rate
from services.api.metrics import Metrics
from services.api.overlay import Overlay
from services.api.past import Past
from services.api.problems import unreadable
from services.api.progress import Progress
from services.api.protocol import DIRECT
from services.api.provider import Provider
from services.api.routes import ENDPOINTS
from services.api.routes.fallback import nothing_there, other_method
from services.api.service import SERVICE, Service
from services.api.serving import serving
from services.api.store import Store
from services.api.tail import Tail
from services.api.waits import Limits, Waits


def make_service(
    settings: Settings,
    *,
    secret: bytes,
    open_reader: Callable[[], ProjectionReader],
    kafka: dict[str, Any],
    patience: Patience | None = None,
) -> Service:
    """Put the parts of a service together.

    Args:
        settings: Of the process.
        secret: Signs tokens and cursors.
        open_reader: Opens the projections; raises StoreError while they can't be.
        kafka: Keyword arguments for aiokafka: servers and security.
        patience: How long to wait for what; None for what clients rely on.
    """
    patience = patience or Patience()
    provider = Provider(settings, patience) if settings.oidc_issuer else None
    keys = Keys(settings.keys_path, patience.keys)
    store = Store(open_reader)
    bodies = Bodies(settings.topic, kafka)
    buffer = Buffer(settings.tail_buffer_bytes)
    waits = Waits(buffer, Limits(settings.max_waits, settings.max_waits_per_caller), patience)
    feed = Feed(buffer, FeedLimits(settings.max_feeds, settings.max_feeds_per_caller))
    service = Service(
        store=store,
        buffer=buffer,
        overlay=Overlay(buffer),
        feed=feed,
        progress=Progress(store, buffer, feed, patience),
        freshness=Freshness(buffer),
        waits=waits,
        tail=Tail(settings.topic, kafka, buffer, waits.watches, patience),
        ingest=Ingest(settings),
        bodies=bodies,
        past=Past(Store(open_reader), bodies),
        gate=Gate(secret, provider, keys, patience.reverify),
        cursors=Cursors(secret),
        delivery=Delivery(secret),
        metrics=Metrics(),
        patience=patience,
        bounds=Bounds.of(settings),
        rate=Rate(settings.max_request_rate, settings.max_request_burst),
    )
    service.progress.listen(waits.resync)
    service.tail.listen(service.progress.need, partial(_lose, service))
    waits.listen(service.progress.need)
    measure(service)
    return service


def _lose(service: Service, partition: int, held: Held) -> None:
    service.waits.lose(partition, held)
    service.feed.lose(partition, held)


def make_app(service: Service) -> web.Application:
    """Return the application of a service; it follows the log while it runs."""
    app = web.Application(client_max_size=service.bounds.body)
    app[SERVICE] = service
    direct = app[DIRECT] = {}
    for endpoint in ENDPOINTS:
        resource = app.router.add_resource(endpoint.path, name=endpoint.name)
        methods = ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)
        serve = serving(service, endpoint)
        for method in methods:
            resource.add_route(method, serve, expect_handler=_expect)
            if not endpoint.places:
                direct[method, endpoint.path] = serve
        _add_fallback(resource, service, other_method(endpoint.path, methods))
    _add_fallback(app.router.add_resource("/{path:.*}"), service, nothing_there("/{path:.*}"))
    app.cleanup_ctx.append(_follow_log)
    app.on_shutdown.append(_let_go)
    return app


def _add_fallback(resource: web.Resource, service: Service, endpoint: Endpoint) -> None:
    resource.add_route("*", serving(service, endpoint), expect_handler=_expect)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Let a client go on that asks first; refuse anything else that is expected."""
    if request.version == HttpVersion11:
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            return unreadable(417).response()
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The answer itself has not begun.
        request.writer.output_size = 0
    return None


async def _follow_log(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    tasks = [asyncio.create_task(service.tail.run()), asyncio.create_task(service.progress.run())]
    tasks.append(asyncio.create_task(service.gate.prepare()))
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await service.gate.close()
    await service.ingest.close()
    await service.bodies.close()
    service.past.close()
    service.store.close()


async def _let_go(app: web.Application) -> None:
    app[SERVICE].waits.close()
    app[SERVICE].feed.close()
