"""`GET /jobs/events`: changes of jobs, as server-sent events.

The id of each event is the position up to which the listener has received everything, in the form
of `Jobtrail-Position`. So a listener resumes from the last id without a gap or a repeat, with any
process of the service, and one who begins with the position of a search misses nothing since.

Source: HTML Living Standard, "Server-sent events". A block with an id and no data only sets the
listener's position.
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
    # For nginx, which would else buffer events.
    "X-Accel-Buffering": "no",
}
#: Milliseconds after which a disconnected listener reconnects.
_RETRY: Final = b"retry: 1000\n"
#: Changes that are handled before other requests are served.
_AT_ONCE: Final = 200
#: Bytes at which a part is sent: at most these and one change are in memory for a slow listener.
_PART: Final = 128 * 1024


async def feed(service: Service, request: web.Request, identity: Identity) -> web.StreamResponse:
    """Send changes of jobs, from now or from a position on, as server-sent events.

    Each event is named by its type and has in `data` the fold's verdict, the event and its job. Its
    id is a position in the log: sent back as `Last-Event-ID`, the stream resumes after that event,
    without a gap or a repeat. Any other position works too, such as that of a search: the stream
    then begins with what came since. A block with an id alone comes every 15 s at least. Events
    that changed nothing are left out; a job's history has them.
    """
    query = read_query(FeedQuery, request.rel_url.raw_query_string)
    await reach_position(service, request)
    wanted = await reach_position(service, request, name=LAST_EVENT)
    with service.store.snapshot() as snapshot:
        watermark = snapshot.watermark
    listener = service.feed.join(identity.caller, watermark, wanted)
    try:
        fresh = service.freshness.headers(watermark)
        stream = _FeedStream(service, listener, Interest.of(identity.caller, query.filters))
        async with contextlib.aclosing(stream.parts()) as parts:
            begin = stream.mark()
            # A position from which the stream can't resume is refused before the answer begins.
            first = await anext(parts, begin)
            response = until_the_end(request, web.StreamResponse(headers={**_HEADERS, **fresh}))
            await response.prepare(request)
            if request.method != "HEAD":
                room = partial(service.outgoing.room, identity.caller.user)
                first = _RETRY + begin + (b"" if first == begin else first)
                async with room(len(first)):
                    await response.write(first)
                await _write(response, parts, service.gate.deadline(identity, FOREVER), room)
            return response
    finally:
        service.feed.leave(listener)


async def _write(
    response: web.StreamResponse, parts: AsyncIterator[bytes], deadline: Deadline, room: Room
) -> None:
    """Write the parts of the stream, until the caller's token or key ends."""
    clock = asyncio.get_running_loop().time
    end = deadline()
    # After a problem the stream just ends; the listener may reconnect at their last position.
    with contextlib.suppress(TimeoutError, Problem):
        async with asyncio.timeout_at(end if end < math.inf else None):
            async for part in parts:
                if clock() >= deadline():
                    break
                async with room(len(part)):
                    await response.write(part)
    await response.write_eof()


class _FeedStream:
    """The stream of one listener.

    Args:
        service: The service.
        listener: With their position.
        interest: The changes that they receive.
    """

    def __init__(self, service: Service, listener: Listener, interest: Interest) -> None:
        self._service = service
        self._listener = listener
        self._interest = interest
        #: The text of each partition's offset, in order; each event changes one of them.
        self._pairs = {
            partition: marked({partition: offset}, listener.last).encode()
            for partition, offset in sorted(listener.at.items())
        }

    async def parts(self) -> AsyncGenerator[bytes]:
        """Yield parts of the stream, at least one in each interval of signs of life."""
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
            part, handled = self._as_text(feed.news(listener, _AT_ONCE))
            feed.move_on(listener, handled)
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
        """Yield changes that the feed no longer caches, read from the log, and signs of life."""
        service, listener = self._service, self._listener
        user = listener.caller.user
        target = service.feed.catch_up(listener)
        while lagging := [p for p, end in target.items() if listener.at[p] < end]:
            # A little of each partition, so that changes come roughly in the order of time.
            for partition in lagging:
                rest = True
                while rest:
                    begin, end = listener.at[partition], target[partition]
                    pending = asyncio.create_task(service.spans.read(partition, begin, end, user))
                    try:
                        while not (await asyncio.wait({pending}, timeout=interval))[0]:
                            yield self.mark()
                        if listener.over:
                            # The log may have been replaced, so that nothing more is sent.
                            pending.exception()
                            return
                        # The span is released before the part is sent to a slow listener.
                        part, rest = self._part_of(pending.result())
                    finally:
                        pending.cancel()
                        del pending
                    yield part

    def _part_of(self, span: Span) -> tuple[bytes, bool]:
        """Return the text of a span, or of its first part, and whether there is more."""
        left = span.from_offset(self._listener.at[span.partition])
        part, handled = self._as_text(left)
        if handled == len(left):
            self._reach(span.partition, span.end, span.last)
        return part + self.mark(), handled < len(left)

    def _as_text(self, found: Sequence[Change]) -> tuple[bytes, int]:
        """Return the text of the next changes, and how many changes it covers."""
        at = self._listener.at
        takes = self._interest.takes
        lines: list[bytes] = []
        size = handled = 0
        passed: dict[int, Change] = {}
        for change in found:
            if size >= _PART:
                break
            handled += 1
            partition, offset = change.partition, change.entry.offset
            # Their position may be after what this process has published.
            if offset < at[partition]:
                continue
            at[partition] = offset + 1
            passed[partition] = change
            if takes(change):
                # The id is made only here, since most listeners take few of the changes.
                self._pass(passed)
                lines += (self._id(), change.text)
                size += len(change.text)
        self._pass(passed)
        return b"".join(lines), handled

    def _pass(self, passed: dict[int, Change]) -> None:
        """Move the position of the listener to the last changes of partitions."""
        for partition, change in passed.items():
            self._listener.last[partition] = (change.entry.offset, change.mark)
            self._pairs[partition] = change.place
        passed.clear()

    def _reach(self, partition: int, offset: int, last: Sequence[int] | None) -> None:
        """Move the position of the listener to an offset."""
        listener = self._listener
        listener.at[partition] = offset
        if last is not None:
            listener.last[partition] = last
        self._pairs[partition] = marked({partition: offset}, listener.last).encode()

    def mark(self) -> bytes:
        """Return a block that only sets the listener's position."""
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
            "The position to resume from; partitions that it does not name, from now on.",
            Position,
        ),
    ),
)
