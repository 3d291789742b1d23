"""What every endpoint does before it reads: the position that the client wants, and the body."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from jobtrail.asof import Cut
from jobtrail.position import format_position, holds
from services.api.freshness import POSITION, check_partitions, wanted_position
from services.api.problems import behind, too_large
from services.api.service import Service


async def reach_position(
    service: Service, request: web.Request, *, live: bool = False, name: str = POSITION
) -> Mapping[int, int]:
    """Wait until a read gives its client what he wrote.

    Args:
        service: The service.
        request: May name a position in a header.
        live: Whether what the tail knows will be laid over the answer.
        name: The header's name.

    Returns:
        The position that was named.

    Raises:
        Problem: 400 for what is no position; 503 where the projections don't get there in time.
    """
    header = request.headers.get(name)
    if header is None:
        return {}
    with service.store.some():
        wanted = wanted_position(header, service.store.partitions, name)
    await _reach(service, wanted, live=live)
    return wanted


async def reach_cut(service: Service, cut: Cut, *, live: bool = False) -> None:
    """Wait until a read can tell what was true at a position.

    Raises:
        Problem: 400 for what is no position in this log; 503 where the projections don't get there
            in time.
    """
    if cut.instant is None:
        with service.store.some():
            check_partitions(cut.position, service.store.partitions, "asOf")
        await _reach(service, cut.position, live=live)


async def _reach(service: Service, wanted: Mapping[int, int], *, live: bool) -> None:
    with service.store.some() as snapshot:
        held = snapshot.held
    if live:
        held = service.freshness.with_tail(held)
    if not holds(held.position, wanted) and not await service.progress.reaches(wanted):
        raise behind(f"The projections did not reach {format_position(wanted)} in time.")


async def read_all(service: Service, request: web.Request) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 408 where it does not arrive in time, 415 where it has a content coding.
        Problem: 413 where it is too large.
    """
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding != "identity":
        raise web.HTTPUnsupportedMediaType(headers={"Accept-Encoding": "identity"})
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(service.bounds.read_timeout):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(service.bounds.body) from None
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
