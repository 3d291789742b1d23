"""From jobs to answers: the JSON of a job, and the ways in which an answer goes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from msgspec import Raw, Struct
from msgspec.json import Encoder

from jobtrail.core.events import TYPE_NAMES
from jobtrail.core.job import Job
from jobtrail.core.states import STATES, State
from jobtrail.core.trail import TrailEntry
from projections.ports.read import Audience, line_of
from services.api.http.coding import Coding, Stream, choose, stream
from services.api.http.instants import as_text
from services.api.http.outgoing import LARGE, Outgoing

#: Answers are the caller's own, and have to be asked for again.
BASE_HEADERS: Final = {
    "Content-Type": "application/json",
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization, Accept-Encoding",
    "Server": "jobtrail",
}
#: Makes the JSON of every answer.
encode: Final = Encoder().encode
_NO_TAGS: Final = Raw(b"{}")
#: How much of a row is the job's own. A slice, since a `*` at the end makes a list of the rest.
_OF_A_JOB: Final = 12


class JobAnswer(Struct, gc=False, rename="camel"):
    """A whole job, as it goes out: a dictionary takes two and a half times as long to make.

    Its fields are those of `jobtrail.contract.results.Job`, in the contract's order.
    """

    id: str
    state: State
    output: Raw | None
    job_type: str | None
    owner: str | None
    bulk_id: str | None
    created_at: str | None
    started_at: str | None
    updated_at: str | None
    ended_at: str | None
    attempt: int
    progress: float | None
    error: Raw | None
    tags: Raw
    viewers: tuple[str, ...]


def job_answer(job: Job) -> JobAnswer:
    """Return a whole job."""
    return line_answer(*line_of(job))


def line_answer(row: Sequence[Any], audience: Audience, job_type: str | None) -> JobAnswer:
    """Return the same of a listed job, without a `Job`: that would be a tenth of a page's time.

    The arguments are a `projections.ports.read.Line`.
    """
    (
        job_id,
        state,
        created,
        updated,
        started,
        ended,
        attempt,
        progress,
        bulk_id,
        tags,
        error,
        output,
    ) = row[:_OF_A_JOB]
    # These are a tenth of the time of a page: no text is made twice, none of what is not there.
    updated_text = as_text(updated)
    return JobAnswer(
        job_id,
        STATES[state],
        None if output is None else Raw(output),
        job_type,
        audience[0],
        bulk_id,
        as_text(created),
        None if started is None else as_text(started),
        updated_text,
        updated_text if ended == updated else as_text(ended),
        attempt,
        progress,
        None if error is None else Raw(error),
        _NO_TAGS if tags is None else Raw(tags),
        audience[1],
    )


def status_answer(job: Job) -> dict[str, Any]:
    """Return the state of a job, as the reference has it."""
    return {"id": job.id, "state": job.state, "output": _as_it_came(job.output)}


def stored_status(job_id: str, state: int, output: bytes | None) -> dict[str, Any]:
    """Return the same of a `projections.ports.read.Status`."""
    return {"id": job_id, "state": STATES[state], "output": _as_it_came(output)}


def entry_answer(entry: TrailEntry, partition: int, body: bytes | None) -> dict[str, Any]:
    """Return an event of a job: what the fold made of it, its place, and itself.

    Args:
        entry: From the job's trail.
        partition: Where it lies.
        body: The event as it came; None where the log does not hold it any more.
    """
    return {
        "type": TYPE_NAMES[entry.type_code],
        "time": as_text(entry.time),
        "verdict": entry.verdict,
        "state": entry.state,
        "partition": partition,
        "offset": entry.offset,
        "event": _as_it_came(body),
    }


def _as_it_came(value: bytes | None) -> Raw | None:
    return None if value is None else Raw(value)


class Whole(web.Response):
    """An answer that is whole before any of it goes out, as nearly all are.

    aiohttp has eight calls between it and the connection, since it might be anything. Where it is
    the most common thing, the content of a 200 on a connection that stays, this does what is left
    of them for that.
    """

    @property
    def content(self) -> bytes:
        """Its body; empty where it is none of bytes."""
        return self._body if type(self._body) is bytes else b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it."""
        body = self._body
        if (
            type(body) is not bytes
            or self.status != 200
            or self.prepared
            or self.keep_alive is False
            or not request.keep_alive
            or request.version != HttpVersion11
            or request.method == hdrs.METH_HEAD
        ):
            return await super().prepare(request)
        headers = self.headers
        headers[hdrs.CONTENT_LENGTH] = str(len(body))
        headers[hdrs.DATE] = rfc822_formatted_time()
        writer = request.writer
        self._keep_alive = True
        # There is nothing that `write_eof` would have to send.
        self._eof_sent = True
        await writer.write_headers("HTTP/1.1 200 OK", headers)
        await writer.write_eof(body)
        self._body_length = writer.output_size
        return None


class Members:
    """An answer that is one object, made some members at a time: only a large one is sent so.

    Use it as a context manager: what of it is in memory is counted until then.

    Args:
        long: Sends it.
        most: Bytes that are gathered before they are sent.
        outgoing: Counts them.
        user: To whom they go.
    """

    def __init__(self, long: LongAnswer, most: int, outgoing: Outgoing, user: str) -> None:
        self._long = long
        self._most = most
        self._outgoing = outgoing
        self._user = user
        self._parts: list[bytes] = []
        self._size = 0
        #: How much of that is counted: small answers are not.
        self._counted = 0
        self._before = b"{"

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Count nothing any more."""
        self._free()

    async def add(self, content: Mapping[str, Any]) -> None:
        """Add some members.

        Raises:
            Problem: 429 or 503 where there is no room, and nothing has been sent.
            ConnectionError: There is none for long, and something has.
        """
        await self.add_encoded(encode(content)[1:-1])

    async def add_encoded(self, members: bytes) -> None:
        """Add some members that are JSON already, without the braces; as `add`."""
        if not members:
            return
        await self._make_room(len(members))
        self._parts += [self._before, members]
        self._before = b","
        self._size += len(members)
        if self._size >= self._most:
            await self._send()

    async def _make_room(self, size: int) -> None:
        """Count some bytes more."""
        if self._size + size < LARGE:
            return
        more = self._size + size - self._counted
        if self._outgoing.has_room(self._user, more) or not self._long.begun:
            self._outgoing.take(self._user, more)
        else:
            # Who waits must keep nothing that others wait for.
            await self._send()
            more = size
            await self._outgoing.wait_for_room(self._user, more)
        self._counted += more

    async def _send(self) -> None:
        body, self._parts, self._size = b"".join(self._parts), [], 0
        if body:
            await self._long.write(body)
        self._free()

    def _free(self) -> None:
        if self._counted:
            self._outgoing.free(self._user, self._counted)
            self._counted = 0

    async def end(self) -> web.StreamResponse:
        """Send the rest."""
        if self._before == b"{":
            return await self._long.end(b"{}")
        rest = b"".join([*self._parts, b"}"])
        if not self._long.begun:
            # One that goes out as a whole is counted as all those are.
            self._free()
        return await self._long.end(rest)


def answer(content: Any, headers: Mapping[str, str]) -> web.Response:
    """Return an answer in JSON.

    Args:
        content: What to say: a struct, or what JSON knows.
        headers: Beside those that every answer has.
    """
    return whole(encode(content), headers)


def whole(body: bytes, headers: Mapping[str, str]) -> web.Response:
    """Return an answer that is JSON already."""
    return Whole(body=body, headers={**BASE_HEADERS, **headers})


def until_the_end(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Return a streamed answer that tells its client where it ends.

    Before HTTP/1.1 there are no chunks: then the end of the connection says it, whatever the client
    wanted to keep. Source: RFC 9112, section 6.3.
    """
    if request.version < HttpVersion11:
        response.force_close()
    return response


class LongAnswer:
    """An answer that may have to begin before it is known: whitespace may precede JSON.

    Args:
        request: Whose answer.
        interval: Seconds between two signs of life.
        headers: Makes the headers when the answer begins.
    """

    __slots__ = ("_coder", "_due", "_headers", "_interval", "_request", "_response")

    def __init__(
        self,
        request: web.Request,
        interval: float,
        headers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._request = request
        self._interval = interval
        self._headers = headers
        self._due = asyncio.get_running_loop().time() + interval
        self._response: web.StreamResponse | None = None
        self._coder: Stream | None = None
        # The timer that waits for a connection's first request runs on beside it: half a KiB.
        request.protocol.keep_alive(True)

    @property
    def begun(self) -> bool:
        """Whether some of it is on its way, be it a sign of life."""
        return self._response is not None

    async def sign_of_life(self) -> float:
        """Send a line feed if it is time; return when it is time again, by the loop's clock."""
        now = asyncio.get_running_loop().time()
        if now >= self._due:
            # Never compressed: a held wait would hold a compressor of 250 KiB.
            response = self._response or await self._begin(None)
            await self._write(response, b"\n")
            self._due = now + self._interval
        return self._due

    async def write(self, some: bytes) -> None:
        """Send a part of the body."""
        response = self._response
        if response is None:
            response = await self._begin(choose(self._request.headers.get("Accept-Encoding")))
        if self._coder is not None:
            self._coder.compress(some)
            some = bytes(self._coder.flush())
        await self._write(response, some)

    async def _write(self, response: web.StreamResponse, some: bytes) -> None:
        if self._request.method != "HEAD":
            await response.write(some)

    async def _begin(self, coding: Coding | None) -> web.StreamResponse:
        headers = {**BASE_HEADERS, **self._headers()}
        if coding is not None:
            self._coder = stream(coding)
            headers["Content-Encoding"] = coding
        self._response = until_the_end(self._request, web.StreamResponse(headers=headers))
        await self._response.prepare(self._request)
        return self._response

    async def end(self, rest: bytes) -> web.StreamResponse:
        """Send the rest of the body, which is all of it where none has been sent."""
        if self._response is None:
            return Whole(body=rest, headers={**BASE_HEADERS, **self._headers()})
        await self.write(rest)
        last = b"" if self._coder is None else bytes(self._coder.finish())
        await self._response.write_eof(last if self._request.method != "HEAD" else b"")
        return self._response
