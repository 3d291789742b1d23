"""`GET /jobs/events`: what happens to jobs, as server-sent events.

The id of each event is the position up to which its reader was told everything, in the form of
`Jobtrail-Position`. So a reader goes on from the last one without a gap or a repeat, whichever
process they come back to, and one who begins with the position of a search misses nothing since.

Source: HTML Living Standard, "Server-sent events". A block with an id and no data tells a reader
nothing but where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial
from typing import Final

from aiohttp import web

from jobtrail.contract import results
from services.api.access.auth import Deadline, Identity
from services.api.feed.changes import Change, Interest
from services.api.feed.feed import Listener
from services.api.feed.spans import Span
from services.api.http.answers import BASE_HEADERS, until_the_end
from services.api.http.outgoing import Room
from services.api.http.requests import FOREVER, FeedQuery, read_query
from services.api.problems.problems import POSITION_GONE, TOO_MANY_FEEDS, Problem
from services.api.reads.freshness import Position, marked
from services.api.routes.reach import reach_position
from services.api.service import Service
from services.api.serving.endpoint import FRESHNESS, READS, STREAM, Answer, Endpoint, Parameter

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
#: Bytes from which on a part is sent: no more than this, and one change, is held for a listener
#: who takes their time.
_PART: Final = 128 * 1024


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
        held = snapshot.watermark
    listener = service.feed.join(identity.caller, held, wanted)
    try:
        fresh = service.freshness.headers(held)
        told = _Told(service, listener, Interest.of(identity.caller, query.filters))
        async with contextlib.aclosing(told.parts()) as parts:
            begin = told.mark()
            # What can't be told from there on is refused before the answer begins.
            first = await anext(parts, begin)
            response = until_the_end(request, web.StreamResponse(headers={**_HEADERS, **fresh}))
            await response.prepare(request)
            if request.method != "HEAD":
                room = partial(service.outgoing.room, identity.caller.user)
                first = _RETRY + begin + (b"" if first == begin else first)
                async with room(len(first)):
                    await response.write(first)
                await _tell(response, parts, service.gate.deadline(identity, FOREVER), room)
            return response
    finally:
        service.feed.leave(listener)


async def _tell(
    response: web.StreamResponse, parts: AsyncIterator[bytes], deadline: Deadline, room: Room
) -> None:
    """Write what is told, for as long as the caller may hear it."""
    clock = asyncio.get_running_loop().time
    end = deadline()
    # The stream ends where it stands; the reader takes it up from there if they still may.
    with contextlib.suppress(TimeoutError, Problem):
        async with asyncio.timeout_at(end if end < math.inf else None):
            async for part in parts:
                if clock() >= deadline():
                    break
                async with room(len(part)):
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
        #: The text of each partition's place, in order: each event changes one of them.
        self._pairs = {
            partition: marked({partition: offset}, listener.last).encode()
            for partition, offset in sorted(listener.at.items())
        }

    async def parts(self) -> AsyncGenerator[bytes]:
        """Yield parts of the stream, at least one in each interval of a sign of life."""
        clock = asyncio.get_running_loop().time
        interval = self._service.timeouts.sign_of_life
        feed, listener = self._service.feed, self._listener
        due = clock()
        while not listener.over:
            if feed.is_behind(listener):
                async with contextlib.aclosing(self._catch_up(interval)) as read:
                    async for part in read:
                        yield part
                due = clock() + interval
                continue
            part, looked_at = self._as_text(feed.news(listener, _AT_ONCE))
            feed.move_on(listener, looked_at)
            if listener.next == feed.following:
                for partition, offset in feed.position.items():
                    if offset > listener.at[partition]:
                        self._reach(partition, offset, feed.last(partition))
            if part:
                yield part
                due = clock() + interval
            elif clock() >= due:
                yield self.mark()
                due = clock() + interval
            if listener.concerned:
                # Writing to a fast client does not let others run.
                await asyncio.sleep(0)
            else:
                await feed.wait(listener, due)

    async def _catch_up(self, interval: float) -> AsyncGenerator[bytes]:
        """Read in the log what the feed does not keep any more, with signs of life as it waits."""
        service, listener = self._service, self._listener
        user = listener.caller.user
        target = service.feed.catch_up(listener)
        while behind := [p for p, end in target.items() if listener.at[p] < end]:
            # Of each partition a little, so that what happened at one time is told together.
            for partition in behind:
                rest = True
                while rest:
                    begin, end = listener.at[partition], target[partition]
                    reading = asyncio.create_task(service.spans.read(partition, begin, end, user))
                    try:
                        while not (await asyncio.wait({reading}, timeout=interval))[0]:
                            yield self.mark()
                        if listener.over:
                            # The log may be another one: where it ends for them was said before.
                            reading.exception()
                            return
                        # The span is not kept for as long as it takes them to take their part.
                        part, rest = self._part_of(reading.result())
                    finally:
                        reading.cancel()
                        del reading
                    yield part

    def _part_of(self, span: Span) -> tuple[bytes, bool]:
        """Return what they are told of a span, or of the first of it, and whether there is more."""
        left = span.behind(self._listener.at[span.partition])
        part, looked_at = self._as_text(left)
        if looked_at == len(left):
            self._reach(span.partition, span.end, span.last)
        return part + self.mark(), looked_at < len(left)

    def _as_text(self, found: Sequence[Change]) -> tuple[bytes, int]:
        """Return what they are told of changes, and how many of them that was made from."""
        at = self._listener.at
        takes = self._interest.takes
        lines: list[bytes] = []
        size = looked_at = 0
        passed: dict[int, Change] = {}
        for change in found:
            if size >= _PART:
                break
            looked_at += 1
            partition, offset = change.partition, change.entry.offset
            # They may have been told further than this process has.
            if offset < at[partition]:
                continue
            at[partition] = offset + 1
            passed[partition] = change
            if takes(change):
                # Most take only some, so that places are looked at where one is said.
                self._pass(passed)
                lines += (self._id(), change.text)
                size += len(change.text)
        self._pass(passed)
        return b"".join(lines), looked_at

    def _pass(self, passed: dict[int, Change]) -> None:
        """Take it that the listener was told everything up to the last changes of partitions."""
        for partition, change in passed.items():
            self._listener.last[partition] = (change.entry.offset, change.mark)
            self._pairs[partition] = change.place
        passed.clear()

    def _reach(self, partition: int, offset: int, last: Sequence[int] | None) -> None:
        """Take it that the listener was told everything before an offset."""
        listener = self._listener
        listener.at[partition] = offset
        if last is not None:
            listener.last[partition] = last
        self._pairs[partition] = marked({partition: offset}, listener.last).encode()

    def mark(self) -> bytes:
        """Return a block that only says where the listener is."""
        return self._id() + b"\n"

    def _id(self) -> bytes:
        return b"id: %b\n" % b",".join(self._pairs.values())


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
    problems=(*READS, POSITION_GONE, TOO_MANY_FEEDS),
    headers=(
        Parameter(
            LAST_EVENT,
            "From where on to tell; partitions that it does not name, from now on.",
            Position,
        ),
    ),
)
