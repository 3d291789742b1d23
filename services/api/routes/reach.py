"""Steps of endpoints before and around a read: positions, bodies, and reads that are certain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from aiohttp import web

from jobtrail.core.asof import Cut
from jobtrail.core.position import Position, format_position, holds
from projections.ports.read import Watermark
from services.api.live.overlay import TooManyNewEvents
from services.api.problems.problems import Problem, behind, log_changed, too_large, unknown_yet
from services.api.reads.freshness import POSITION, check_partitions, wanted_position
from services.api.service import Service

#: Seconds between two reads of something that was not found, while absence is not certain.
_RETRY_AFTER: Final = 0.25
#: What each further read is charged, in requests.
_PRICE: Final = 1.0


async def reach_position(
    service: Service, request: web.Request, *, live: bool = False, name: str = POSITION
) -> Mapping[int, int]:
    """Wait until a read reaches the position that its client names.

    Args:
        service: The service.
        request: May name a position in a header.
        live: Whether the tail's records will be folded onto the answer.
        name: The header's name.

    Returns:
        The position that was named.

    Raises:
        Problem: 400 if it is not a position; 410 if it is of another log; 503 if it is not reached
            in time.
    """
    header = request.headers.get(name)
    if header is None:
        return {}
    with service.store.snapshot(allow_recovering=True):
        wanted = wanted_position(header, service.store.partitions, name)
    await _reach(service, wanted, partial(_user, service, request), live=live)
    return wanted


def _user(service: Service, request: web.Request) -> str:
    """Return the user of an authenticated request."""
    found = service.gate.identify(request.headers.get("Authorization"))
    return "" if found is None else found.caller.user


async def reach_cut(service: Service, cut: Cut, *, user: str, live: bool = False) -> None:
    """Wait until a read can answer for a position of the past.

    Args:
        service: The service.
        cut: May name a position.
        user: Who asks.
        live: Whether the tail's records will be folded onto the answer.

    Raises:
        Problem: 400 if it is not a position in this log; 410 if it is of another log; 503 if it is
            not reached in time.
    """
    if cut.instant is None:
        with service.store.snapshot(allow_recovering=True):
            check_partitions(cut.position, service.store.partitions, "asOf")
        await _reach(service, cut.position, lambda: user, live=live)


async def _reach(
    service: Service, wanted: Mapping[int, int], user: Callable[[], str], *, live: bool
) -> None:
    """Wait until a read reaches a position, and prove that it is of this log.

    Both are true in this step of the event loop only: by the next one the tail may have lost
    records.
    """
    proven = False
    while True:
        with service.store.snapshot(allow_recovering=True) as snapshot:
            watermark = snapshot.watermark
        reached = service.freshness.with_tail(watermark) if live else watermark
        if not holds(reached.position, wanted):
            if await service.progress.reaches(wanted):
                continue
            raise _not_reached(service, wanted)
        if proven or not service.proofs.unproven(wanted, watermark):
            return
        assert isinstance(wanted, Position)
        await service.proofs.prove(user(), wanted, watermark)
        proven = True


def _not_reached(service: Service, wanted: Mapping[int, int]) -> Problem:
    """Return the problem for a position that was not reached in time."""
    end = service.buffer.end
    for partition, offset in wanted.items():
        if service.absence.has_all_of(partition) and end(partition) < offset:
            # The log had these records when their position was given out, so it has lost them.
            return log_changed()
    return behind(f"The projections did not reach {format_position(wanted, {})} in time.")


_T = TypeVar("_T")
#: Tells whether a result is certain, given the watermark of the projections.
IsCertain = Callable[[Watermark], bool]


async def read_until_certain(
    service: Service, user: str, read: Callable[[], tuple[_T, IsCertain | None]]
) -> _T:
    """Read until the result is certain: what was not found is absent.

    Args:
        service: The service.
        user: Who asks.
        read: Returns its result, and None if that is certain, else a function that tells when it
            may be.

    Raises:
        Problem: 503 where it does not become certain in time; what `read` raises.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + service.timeouts.position
    while True:
        try:
            found, is_certain = read()
        except TooManyNewEvents as ahead:
            await service.overlay.catch_up(
                service.store, ahead.ids, until, partial(service.turns.pause, user)
            )
            continue
        if is_certain is None:
            return found
        left = until - clock()
        if left <= 0:
            raise unknown_yet()
        # It may be found before that, so it is read again from time to time.
        await service.progress.until(is_certain, min(left, _RETRY_AFTER))
        await pause_before_retry(service, user)


async def pause_before_retry(service: Service, user: str) -> None:
    """Wait until a request may read again what it did not find.

    All who wait for the same condition are woken together, so they go on by turns of callers. Each
    further read is charged as a request.

    Args:
        service: The service.
        user: Who asks.
    """
    service.rate.charge(user, _PRICE)
    await service.turns.pause(user)


async def read_all(service: Service, request: web.Request) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 408 if it does not arrive in time, 415 if it has a content coding.
        Problem: 413 if it is too large.
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
