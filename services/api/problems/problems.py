"""The one form of all error answers: RFC 9457 problem details.

Clients tell problems apart by `type`; the texts are for people. The types are URNs: names without a
location, which are the same wherever the service runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web
from msgspec import structs

from services.api.problems.shapes import FaultDetails, NotReadyDetails, ProblemDetails, Readiness

CONTENT_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:jobtrail:problem:"


class Kind(NamedTuple):
    """What all problems of one type have in common."""

    status: int
    #: The last part of the problem's type.
    name: str
    title: str
    #: The headers that it always has.
    headers: tuple[str, ...] = ()
    #: The form of its body.
    shape: type[ProblemDetails] = ProblemDetails

    @property
    def type(self) -> str:
        """The `type` of the problem."""
        return _TYPE + self.name


_RETRY: Final = ("Retry-After",)
INVALID: Final = Kind(400, "invalid-request", "The request is not valid.")
MALFORMED: Final = Kind(400, "malformed", "The request is not valid HTTP.")
UNAUTHORIZED: Final = Kind(
    401, "unauthorized", "The request is not authenticated.", ("WWW-Authenticate",)
)
FORBIDDEN: Final = Kind(403, "forbidden", "You may not do this.")
FOREIGN_SOURCE: Final = Kind(403, "foreign-source", "You may not write events of this source.")
NOT_FOUND: Final = Kind(404, "not-found", "There is nothing here.")
METHOD_NOT_ALLOWED: Final = Kind(
    405, "method-not-allowed", "The path has no such method.", ("Allow",)
)
TIMEOUT: Final = Kind(408, "timeout", "The request took too long.")
POSITION_GONE: Final = Kind(410, "position-gone", "The log does not reach back that far.")
LOG_CHANGED: Final = Kind(410, "log-changed", "The log was replaced.")
PAST_GONE: Final = Kind(410, "past-gone", "The log no longer has the events.")
TOO_LARGE: Final = Kind(413, "too-large", "The body is too large.")
URI_TOO_LONG: Final = Kind(414, "uri-too-long", "The URL is too long.")
UNSUPPORTED: Final = Kind(
    415, "unsupported-media-type", "The body's content type is not supported."
)
EXPECTATION_FAILED: Final = Kind(417, "expectation-failed", "The expectation can't be met.")
TOO_MANY_REQUESTS: Final = Kind(429, "too-many-requests", "You send too many requests.", _RETRY)
TOO_MANY_FEEDS: Final = Kind(429, "too-many-feeds", "There are too many listeners.", _RETRY)
TOO_MANY_WAITS: Final = Kind(429, "too-many-waits", "Too many waits are open.", _RETRY)
TOO_MANY_READS: Final = Kind(429, "too-many-reads", "Too many of your reads are waiting.", _RETRY)
TOO_MANY_BYTES: Final = Kind(429, "too-many-bytes", "Too many bytes of answers are unread.", _RETRY)
HEADERS_TOO_LARGE: Final = Kind(431, "headers-too-large", "The headers are too large.")
INTERNAL: Final = Kind(500, "internal", "The service has failed.")
KEYS_UNAVAILABLE: Final = Kind(503, "keys-unavailable", "Tokens can't be verified.", _RETRY)
TOO_MANY_CONNECTIONS: Final = Kind(
    503, "too-many-connections", "Too many connections are open.", _RETRY
)
RECOVERING: Final = Kind(503, "recovering", "The projections are being rebuilt.", _RETRY)
BEHIND: Final = Kind(503, "behind", "The projections lag.", _RETRY)
NOT_READY: Final = Kind(503, "not-ready", "The service is not ready.", _RETRY, NotReadyDetails)
STORE_UNAVAILABLE: Final = Kind(503, "store-unavailable", "The projections can't be read.", _RETRY)
BUSY: Final = Kind(503, "busy", "The service is busy.", _RETRY)
READ_TOO_LONG: Final = Kind(503, "read-too-long", "The read takes too long.", _RETRY)
STOPPING: Final = Kind(503, "stopping", "The service is stopping.", _RETRY)
LOG_UNAVAILABLE: Final = Kind(503, "log-unavailable", "The log can't be reached.", _RETRY)


#: The most faults that an answer names.
_FAULTS: Final = 100


class RequestFault(NamedTuple):
    """One thing that is wrong with a request."""

    #: `parameter` (of the query, or a header) or `pointer` (RFC 6901, into the body).
    kind: str
    place: str
    detail: str

    def details(self) -> FaultDetails:
        """Return the entry of `errors`."""
        if self.kind == "parameter":
            return FaultDetails(parameter=self.place, detail=self.detail)
        return FaultDetails(pointer=self.place, detail=self.detail)


class Problem(Exception):
    """A request that is answered with a problem.

    Args:
        kind: Its type.
        detail: What is wrong this time.
        faults: Everything that is wrong with the request.
        headers: Of the answer.
        reason: For the process's log, never for the client.
        members: Members beyond those of the RFC.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        faults: Sequence[RequestFault] = (),
        headers: Mapping[str, str] | None = None,
        reason: str | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = kind.status
        self.detail = detail
        self.faults = faults
        self.headers = dict(headers or {})
        self.reason = reason
        self.members = dict(members or {})

    def body(self) -> bytes:
        """Return the problem as JSON."""
        details = self.kind.shape(
            type=self.kind.type,
            title=self.kind.title,
            status=self.status,
            detail=self.detail,
            errors=tuple(fault.details() for fault in self.faults),
            **self.members,
        )
        return msgspec.json.encode(details)

    def response(self) -> web.Response:
        """Return the answer."""
        return web.Response(
            body=self.body(),
            status=self.status,
            headers={**self.headers, "Content-Type": CONTENT_TYPE},
        )


def invalid(faults: Sequence[RequestFault]) -> Problem:
    """A request with faults: all of them, or the first of very many."""
    things = "one thing is" if len(faults) == 1 else f"{len(faults):,} things are"
    where = "`errors`" if len(faults) <= _FAULTS else f"`errors` for the first {_FAULTS}"
    detail = f"In this request {things} wrong; see {where}."
    return Problem(INVALID, detail, faults=faults[:_FAULTS])


def unauthorized(reason: str) -> Problem:
    """No token, or an invalid one; the client can't tell which."""
    return Problem(
        UNAUTHORIZED,
        "Send a valid token as `Authorization: Bearer <token>`.",
        headers={"WWW-Authenticate": 'Bearer realm="jobtrail"'},
        reason=reason,
    )


def keys_unavailable(reason: str) -> Problem:
    """The keys of the provider were never fetched, so its tokens can't be verified."""
    return Problem(
        KEYS_UNAVAILABLE,
        "The keys of the provider that issued your token could not be fetched yet.",
        headers={"Retry-After": "10"},
        reason=reason,
    )


def api_keys_unknown() -> Problem:
    """The file of the API keys is damaged, so no key can be verified."""
    return Problem(
        KEYS_UNAVAILABLE,
        "The service can't read its file of API keys, so it can't verify yours.",
        headers={"Retry-After": "10"},
        reason="the file of the API keys is damaged",
    )


def foreign_source(faults: Sequence[RequestFault]) -> Problem:
    """An API key that is bound to sources sent events of another source."""
    return Problem(
        FOREIGN_SOURCE,
        "Your API key is bound to other sources.",
        faults=faults,
    )


def forbidden(permission: str) -> Problem:
    """The caller lacks a permission."""
    return Problem(
        FORBIDDEN,
        f"It takes the permission {permission}.",
    )


def unsupported_form(forms: Sequence[str]) -> Problem:
    """A body of a content type that the endpoint does not accept."""
    return Problem(
        UNSUPPORTED,
        f"Send one of: {'; '.join(forms)}.",
    )


def not_found(detail: str) -> Problem:
    """It does not exist, or the caller may not see it."""
    return Problem(NOT_FOUND, detail)


def method_not_allowed(methods: Sequence[str]) -> Problem:
    """The path does not have the method."""
    return Problem(
        METHOD_NOT_ALLOWED,
        "This path has other methods; see the header `Allow`.",
        headers={"Allow": ", ".join(methods)},
    )


def too_many_requests(seconds: int) -> Problem:
    """A caller sends more requests a second than allowed."""
    return Problem(
        TOO_MANY_REQUESTS,
        "Wait as long as `Retry-After` says.",
        headers={"Retry-After": str(seconds)},
    )


def too_many_connections() -> Problem:
    """This process has as many open connections as allowed."""
    return Problem(
        TOO_MANY_CONNECTIONS,
        "This process has as many open connections as allowed.",
        headers={"Retry-After": "1", "Connection": "close"},
    )


def too_large(limit: int) -> Problem:
    """The body is larger than allowed."""
    return Problem(TOO_LARGE, f"A body has {limit} bytes at most.")


def too_many_waits(detail: str) -> Problem:
    """A bound of open waits is met."""
    return Problem(TOO_MANY_WAITS, detail, headers={"Retry-After": "1"})


def too_many_feeds(detail: str) -> Problem:
    """A bound of listeners is met."""
    return Problem(TOO_MANY_FEEDS, detail, headers={"Retry-After": "5"})


def position_gone(position: str) -> Problem:
    """The log no longer reaches back to a position."""
    return Problem(
        POSITION_GONE,
        f"The log begins after {position}. Begin without a position; search for earlier changes.",
    )


def log_changed(what: str = "position") -> Problem:
    """A position or cursor is of a log that lost its end since, or was replaced."""
    return Problem(
        LOG_CHANGED,
        f"The {what} is of another log than the present one: the log lost its end, or was "
        "replaced. Begin again without it: read the present state, and go on from the position of "
        "that answer.",
    )


def past_gone(job_id: str) -> Problem:
    """A past state of a job can't be folded: the log no longer has the events."""
    return Problem(
        PAST_GONE,
        f"The job {job_id!r} has changed since, and the log no longer has all the events up to "
        "then. Counts of the past are still answered.",
    )


def recovering(detail: str, reason: str | None = None) -> Problem:
    """The projections are incomplete, and are being rebuilt."""
    return Problem(
        RECOVERING,
        detail,
        headers={"Retry-After": "2"},
        reason=reason,
    )


def behind(detail: str) -> Problem:
    """The projections did not reach a position in time."""
    return Problem(BEHIND, detail, headers={"Retry-After": "1"})


def unknown_yet() -> Problem:
    """A job was not found, and is not certainly absent."""
    return Problem(
        BEHIND,
        "What was not found may be in a part of the log that was not read yet: the projections or "
        "the live tail lag. Ask again.",
        headers={"Retry-After": "1"},
    )


def stopping() -> Problem:
    """The service stops before the wait is over."""
    return Problem(
        STOPPING,
        "What you wait for has not happened yet. Ask again: another process answers.",
        headers={"Retry-After": "1"},
    )


def not_ready(readiness: Readiness) -> Problem:
    """A part of the service is not up."""
    return Problem(
        NOT_READY,
        "A part of the service is not up, or makes no progress: see `reasons`.",
        headers={"Retry-After": "1"},
        members=structs.asdict(readiness),
    )


def store_unavailable(reason: str) -> Problem:
    """The projection store can't be read."""
    return Problem(
        STORE_UNAVAILABLE,
        "The projections can't be read at the moment.",
        headers={"Retry-After": "5"},
        reason=reason,
    )


def log_unavailable(reason: str) -> Problem:
    """The log did not answer a read in time."""
    return _no_log("Kafka did not answer in time.", reason)


def perhaps_written(reason: str) -> Problem:
    """The log did not acknowledge a write in time; the events may be in it."""
    return _no_log(
        "Kafka did not answer in time. Events of this request may or may not be in the log: send "
        "them again, an event that is in the log already changes nothing.",
        reason,
    )


def _no_log(detail: str, reason: str) -> Problem:
    return Problem(LOG_UNAVAILABLE, detail, headers={"Retry-After": "2"}, reason=reason)


def internal() -> Problem:
    """A bug; the process's log has the traceback."""
    return Problem(
        INTERNAL,
        "It is logged. The same request may fail again.",
    )


def from_http(error: web.HTTPException) -> Problem:
    """A refusal of aiohttp, as a problem."""
    kind, detail = _HTTP.get(error.status) or (
        Kind(error.status, f"http-{error.status}", f"{error.reason}."),
        f"HTTP {error.status} {error.reason}.",
    )
    kept = ("Accept-Encoding",)
    headers = {name: error.headers[name] for name in kept if name in error.headers}
    return Problem(kind, detail, headers=headers)


def unreadable(status: int) -> Problem:
    """A request that can't be read as HTTP."""
    return Problem(*_HTTP[status])


_HTTP: Final = {
    400: (MALFORMED, "The request could not be read as HTTP."),
    408: (TIMEOUT, "The body did not arrive in time."),
    414: (URI_TOO_LONG, "Use fewer or shorter parameters."),
    415: (UNSUPPORTED, "Send the body as plain JSON, without a content coding."),
    417: (EXPECTATION_FAILED, "Only 100-continue can be expected."),
    431: (HEADERS_TOO_LARGE, "Send fewer or shorter headers."),
}
