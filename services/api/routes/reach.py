"""What every endpoint does before it reads: the position that the client wants, and the body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from aiohttp import web

from jobtrail.core.asof import Cut
from jobtrail.core.position import Position, format_position, holds
from projections.ports.read import Watermark
from services.api.live.overlay import Ahead
from services.api.problems.problems import Problem, behind, log_changed, too_large, unknown_yet
from services.api.reads.freshness import POSITION, check_partitions, wanted_position
from services.api.service import Service

#: Seconds between two looks for something while it is not known whether it is there.
_LOOK_AGAIN: Final = 0.25
#: What each look but the first costs a caller, in requests: it takes what one does.
_PRICE: Final = 1.0


async def reach_position(
    service: Service, request: web.Request, *, live: bool = False, name: str = POSITION
) -> Mapping[int, int]:
    """Wait until a read gives its client what they wrote.

    Args:
        service: The service.
        request: May name a position in a header.
        live: Whether what the tail knows will be laid over the answer.
        name: The header's name.

    Returns:
        The position that was named.

    Raises:
        Problem: 400 for what is no position; 410 where it is one of another log; 503 where the
            projections don't get there in time.
    """
    header = request.headers.get(name)
    if header is None:
        return {}
    with service.store.snapshot(allow_recovering=True):
        wanted = wanted_position(header, service.store.partitions, name)
    await _reach(service, wanted, partial(_user, service, request), live=live)
    return wanted


def _user(service: Service, request: web.Request) -> str:
    """Return who sent a request that was let in."""
    known = service.gate.identify(request.headers.get("Authorization"))
    return "" if known is None else known.caller.user


async def reach_cut(service: Service, cut: Cut, *, user: str, live: bool = False) -> None:
    """Wait until a read can tell what was true at a position.

    Args:
        service: The service.
        cut: May name a position.
        user: Who asks.
        live: Whether what the tail knows will be laid over the answer.

    Raises:
        Problem: 400 for what is no position in this log; 410 where it is one of another log; 503
            where the projections don't get there in time.
    """
    if cut.instant is None:
        with service.store.snapshot(allow_recovering=True):
            check_partitions(cut.position, service.store.partitions, "asOf")
        await _reach(service, cut.position, lambda: user, live=live)


async def _reach(
    service: Service, wanted: Mapping[int, int], user: Callable[[], str], *, live: bool
) -> None:
    """Wait until a read holds a position, and prove that it is one of this log.

    When it returns, both are so in this turn of the event loop: what only the tail holds it may
    lose by the next one.
    """
    proven = False
    while True:
        with service.store.snapshot(allow_recovering=True) as snapshot:
            held = snapshot.watermark
        holding = service.freshness.with_tail(held) if live else held
        if not holds(holding.position, wanted):
            if await service.progress.reaches(wanted):
                continue
            raise _not_reached(service, wanted)
        if proven or not service.proofs.doubtful(wanted, held):
            return
        assert isinstance(wanted, Position)
        await service.proofs.prove(user(), wanted, held)
        proven = True


def _not_reached(service: Service, wanted: Mapping[int, int]) -> Problem:
    """Return the answer to who wants a position that was not reached in time."""
    end = service.buffer.end
    for partition, offset in wanted.items():
        if service.coverage.is_level(partition) and end(partition) < offset:
            # Whoever wrote it was told so when the log had it.
            return log_changed()
    return behind(f"The projections did not reach {format_position(wanted, {})} in time.")


_T = TypeVar("_T")
#: Tells what the projections hold whether there is no doubt left.
Known = Callable[[Watermark], bool]


async def surely(service: Service, user: str, read: Callable[[], tuple[_T, Known | None]]) -> _T:
    """Read until nothing that was not found may be there all the same.

    Args:
        service: The service.
        user: Who asks.
        read: Reads; returns what it found, and None where nothing is in doubt, else what tells
            when that may be over.

    Raises:
        Problem: 503 where it stays in doubt; what `read` raises.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + service.timeouts.position
    while True:
        try:
            found, known = read()
        except Ahead as ahead:
            await service.overlay.catch_up(
                service.store, ahead.ids, until, partial(service.turns.pause, user)
            )
            continue
        if known is None:
            return found
        left = until - clock()
        if left <= 0:
            raise unknown_yet()
        # It may be found before the doubt is over, so it is looked for from time to time.
        await service.progress.until(known, min(left, _LOOK_AGAIN))
        await look_again(service, user)


async def look_again(service: Service, user: str) -> None:
    """Wait until a request may look once more for what it did not find.

    All who wait for the same are woken together, so they go on by turns of callers; and each pays
    for its looks, as if it had asked again.

    Args:
        service: The service.
        user: Who asks.
    """
    service.rate.charge(user, _PRICE)
    await service.turns.pause(user)


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
