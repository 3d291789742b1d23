"""The JSON of jobs and events, and the ways to send an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
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
from services.api.internals.aiohttp_internals import (
    keep_connection,
    rfc822_formatted_time,
    send_complete,
)

#: Of every answer: it is for this caller alone, and a cache has to revalidate it.
BASE_HEADERS: Final = {
    "Content-Type": "application/json",
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization, Accept-Encoding",
    "Server": "jobtrail",
}
#: Encodes the JSON of every answer.
encode: Final = Encoder().encode
_NO_TAGS: Final = Raw(b"{}")
#: The columns of a row that describe the job. A slice, since unpacking with `*` makes a list.
_OF_A_JOB: Final = 12


class JobAnswer(Struct, gc=False, rename="camel"):
    """The JSON of a job. A struct, since a dictionary takes two and a half times as long to make.

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
    """Return the answer for a job."""
    return line_answer(*line_of(job))


def line_answer(row: Sequence[Any], audience: Audience, job_type: str | None) -> JobAnswer:
    """Return the same for a row of a listing. To make a `Job` first takes a tenth of a page's time.

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
    # These texts take a tenth of the time of a page, so none is made twice or for nothing.
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
    """Return the status of a job, in the form of the Jobs API."""
    return {"id": job.id, "state": job.state, "output": _as_it_came(job.output)}


def stored_status(job_id: str, state: int, output: bytes | None) -> dict[str, Any]:
    """Return the same for a `projections.ports.read.Status`."""
    return {"id": job_id, "state": STATES[state], "output": _as_it_came(output)}


def entry_answer(entry: TrailEntry, partition: int, body: bytes | None) -> dict[str, Any]:
    """Return the answer for an event of a job: its verdict, its place in the log, and the event.

    Args:
        entry: From the job's trail.
        partition: Of the event.
        body: The event as it was written; None if the log no longer has it.
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


class CompleteResponse(web.Response):
    """An answer that is complete before any of it is sent, as nearly all are.

    aiohttp makes eight calls to send a response of any kind. For the most common kind, a 200 with
    bytes on a connection that stays open, `prepare` does only what these calls do in that case.
    """

    @property
    def content(self) -> bytes:
        """Its body; empty if that is not bytes."""
        body = self.body
        return body if type(body) is bytes else b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it."""
        body = self.body
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
        await send_complete(request, self, body)
        return None


class Members:
    """An answer that is one JSON object, made some members at a time; a large one is streamed.

    Use it as a context manager, which counts its bytes in memory until the end.

    Args:
        long: Sends it.
        most: Bytes that are gathered before they are sent.
        outgoing: Counts them.
        user: Who receives them.
    """

    def __init__(self, long: LongAnswer, most: int, outgoing: Outgoing, user: str) -> None:
        self._long = long
        self._most = most
        self._outgoing = outgoing
        self._user = user
        self._parts: list[bytes] = []
        self._size = 0
        #: How many of these bytes are counted; those of small answers are not.
        self._counted = 0
        self._before = b"{"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Count its bytes no longer."""
        self._free()

    async def add(self, content: Mapping[str, Any]) -> None:
        """Add some members.

        Raises:
            Problem: 429 or 503 where there is no room, and nothing has been sent yet.
            ConnectionError: Too many bytes wait for room, and a part has been sent.
        """
        await self.add_encoded(encode(content)[1:-1])

    async def add_encoded(self, members: bytes) -> None:
        """Add members that are encoded already, without the braces; see `add`."""
        if not members:
            return
        await self._make_room(len(members))
        self._parts += [self._before, members]
        self._before = b","
        self._size += len(members)
        if self._size >= self._most:
            await self._send()

    async def _make_room(self, size: int) -> None:
        """Count more bytes, once there is room for them."""
        if self._size + size < LARGE:
            return
        more = self._size + size - self._counted
        if self._outgoing.has_room(self._user, more) or not self._long.begun:
            self._outgoing.take(self._user, more)
        else:
            # Send what is counted first: while it waits, it must not keep room from others.
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
        """Send the rest and end the answer."""
        if self._before == b"{":
            return await self._long.end(b"{}")
        rest = b"".join([*self._parts, b"}"])
        if not self._long.begun:
            # One that is sent at once is counted where all of these are.
            self._free()
        return await self._long.end(rest)


def answer(content: Any, headers: Mapping[str, str]) -> web.Response:
    """Return an answer in JSON.

    Args:
        content: A struct, or what JSON can express.
        headers: Beside those of every answer.
    """
    return encoded_answer(encode(content), headers)


def encoded_answer(body: bytes, headers: Mapping[str, str]) -> web.Response:
    """Return an answer whose JSON is encoded already."""
    return CompleteResponse(body=body, headers={**BASE_HEADERS, **headers})


def until_the_end(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Prepare a streamed answer so that its client can tell where it ends.

    HTTP/1.0 has no chunks, so the end of the connection marks it, even if the client asked to keep
    the connection. Source: RFC 9112, section 6.3.
    """
    if request.version < HttpVersion11:
        response.force_close()
    return response


class LongAnswer:
    """An answer that may begin before its content is known, since whitespace may precede JSON.

    Args:
        request: The request.
        interval: Seconds between two signs of life.
        headers: Returns the headers when the answer begins.
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
        keep_connection(request)

    @property
    def begun(self) -> bool:
        """Whether a part of it is sent, or a sign of life."""
        return self._response is not None

    async def sign_of_life(self) -> float:
        """Send a line feed if that is due; return when it is due again, by the loop's clock."""
        now = asyncio.get_running_loop().time()
        if now >= self._due:
            # Never compressed: each open wait would need a compressor of 250 KiB.
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
        """Send the rest of the body, or all of it, and end the answer."""
        if self._response is None:
            return CompleteResponse(body=rest, headers={**BASE_HEADERS, **self._headers()})
        await self.write(rest)
        last = b"" if self._coder is None else bytes(self._coder.finish())
        await self._response.write_eof(last if self._request.method != "HEAD" else b"")
        return self._response
