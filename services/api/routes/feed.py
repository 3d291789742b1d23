"""`GET /jobs/events`: what happens to jobs, as server-sent events.

The id of each event is the position up to which its reader was told everything, in the form of
`Jobtrail-Position`. So a reader goes on from the last one without a gap or a repeat, whichever
process he comes back to, and one who begins with the position of a search misses nothing since.

Source: HTML Living Standard, "Server-sent events". A block with an id and no data tells a reader
nothing but where he is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final

from aiohttp import web

from jobtrail.client import results
from jobtrail.position import format_position
from services.api.answers import BASE_HEADERS
from services.api.auth import Deadline, Identity
from services.api.endpoint import FRESHNESS, READS, STREAM, Answer, Endpoint, Parameter
from services.api.feed import Change, Interest, Listener, changes
from services.api.freshness import Position
from services.api.problems import LOG_UNAVAILABLE, POSITION_GONE, TOO_MANY_FEEDS, Problem
from services.api.reading import reach_position
from services.api.requests import FOREVER, FeedQuery, read_query
from services.api.service import Service

LAST_EVENT: Final = "Last-Event-ID"
_HEADERS: Final = {
    **BASE_HEADERS,
    "Content-Type": STREAM,
    # Told to nginx: it would keep events back until a buffer is full.
    "X-Accel-Buffering": "no",
}
#: Milliseconds after which a reader who was cut off comes back.
_RETRY: Final = b"retry: 1000\n"
#: Changes between two turns of the event loop.
_AT_ONCE: Final = 200


async def feed(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Tell what happens to jobs, from now or from a position on, as server-sent events.

    Each event is named by its type and has in `data` what the fold made of it, the event and its
    job. Its id is a position in the log: sent back as `Last-Event-ID` it goes on behind that event,
    without a gap or a repeat. Any other position is as good, such as that of a search: then what
    came since is told. A block with an id alone comes every 15 s at least. Events that changed
    nothing are left out; a job's history has them.
    """
    query = read_query(FeedQuery, request.rel_url.raw_query_string)
    await reach_position(service, request)
    wanted = await reach_position(service, request, name=LAST_EVENT)
    with service.store.snapshot() as snapshot:
        listener = service.feed.join(identity.caller, snapshot.held.position, wanted)
        fresh = service.freshness.headers(snapshot.held)
    try:
        told = _Told(service, listener, Interest.of(identity.caller, query.filters))
        async with contextlib.aclosing(told.parts()) as parts:
            begin = told.mark()
            # What can't be told from there on is refused before the answer begins.
            first = await anext(parts, begin)
            response = web.StreamResponse(headers={**_HEADERS, **fresh})
            await response.prepare(request)
            if request.method != "HEAD":
                await response.write(_RETRY + begin + (b"" if first == begin else first))
                await _tell(response, parts, service.gate.deadline(identity, FOREVER))
            return response
    finally:
        service.feed.leave(listener)


async def _tell(
    response: web.StreamResponse, parts: AsyncIterator[bytes], deadline: Deadline
) -> None:
    """Write what is told, for as long as the caller may hear it."""
    clock = asyncio.get_running_loop().time
    end = deadline()
    # The stream ends where it stands; the reader takes it up from there if he still may.
    with contextlib.suppress(TimeoutError, Problem):
        async with asyncio.timeout_at(end if end < math.inf else None):
            async for part in parts:
                if clock() >= deadline():
                    break
                await response.write(part)
    await response.write_eof()


class _Told:
    """What one listener is told.

    Args:
        service: The service.
        listener: From where on.
        interest: Of what.
    """

    def __init__(self, service: Service, listener: Listener, interest: Interest) -> None:
        self._service = service
        self._listener = listener
        self._interest = interest

    async def parts(self) -> AsyncGenerator[bytes]:
        """Yield parts of the stream, at least one in each interval of a sign of life."""
        clock = asyncio.get_running_loop().time
        interval = self._service.patience.sign_of_life
        feed, listener = self._service.feed, self._listener
        due = clock()
        while not listener.over:
            if feed.is_behind(listener):
                async for part in self._catch_up():
                    yield part
                    due = clock() + interval
                continue
            part = self._as_text(feed.news(listener, _AT_ONCE))
            if listener.next == feed.following:
                listener.at = {p: max(o, feed.position[p]) for p, o in listener.at.items()}
            if part:
                yield part
                due = clock() + interval
            elif clock() >= due:
                yield self.mark()
                due = clock() + interval
            if listener.next < feed.following:
                # Writing to a fast client does not let others run.
                await asyncio.sleep(0)
            else:
                await feed.wait(listener, due)

    async def _catch_up(self) -> AsyncIterator[bytes]:
        """Read in the log what the feed does not keep any more."""
        service, listener = self._service, self._listener
        target, following = dict(service.feed.position), service.feed.following
        while behind := [p for p, end in target.items() if listener.at[p] < end]:
            # Of each partition a little, so that what happened at one time is told together.
            for partition in behind:
                begin, end = listener.at[partition], target[partition]
                records, reached = await service.bodies.scan(partition, begin, end)
                with service.store.snapshot() as snapshot:
                    found = list(changes(snapshot, records, service.store.partitions))
                part = self._as_text(found)
                listener.at[partition] = reached
                yield part + self.mark()
        listener.next = following

    def _as_text(self, found: Iterable[Change]) -> bytes:
        at = self._listener.at
        lines = []
        for change in found:
            partition, offset = change.partition, change.entry.offset
            # He may have been told further than this process has.
            if offset < at[partition]:
                continue
            at[partition] = offset + 1
            if self._interest.takes(change):
                lines.append(self._id() + change.text)
        return b"".join(lines)

    def mark(self) -> bytes:
        """Return a block that only says where the listener is."""
        return self._id() + b"\n"

    def _id(self) -> bytes:
        return b"id: %b\n" % format_position(self._listener.at).encode()


ENDPOINT: Final = Endpoint(
    "GET",
    "/jobs/events",
    "feed",
    feed,
    FeedQuery,
    answers=(
        Answer(
            "A stream of server-sent events; it ends when the token does.",
            results.ChangeData,
            media=(STREAM,),
            headers=FRESHNESS,
        ),
    ),
    problems=(*READS, POSITION_GONE, TOO_MANY_FEEDS, LOG_UNAVAILABLE),
    headers=(
        Parameter(
            LAST_EVENT,
            "From where on to tell; partitions that it does not name, from now on.",
            Position,
        ),
    ),
)
