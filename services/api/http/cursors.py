"""Cursors: where a page of a listing ended, signed so that only the service can make one.

A cursor is bound to the filters of its listing, but not to the caller: it names a place in an
order, and the store decides which jobs after it the caller may see, as on every page.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import quote

import orjson

from jobtrail.core.position import format_position
from projections.ports.read import Cursor, Filters
from services.api.http.instants import as_text
from services.api.http.requests import DEFAULT_SIZE, SearchQuery
from services.api.problems.problems import RequestFault, invalid, log_changed

_SEAL_BYTES: Final = 16
_SEARCH: Final = "/jobs/search"

_quoted = lru_cache(maxsize=4096)(quote)


class Place(NamedTuple):
    """Where a page begins."""

    #: The job after which it begins; None for the first page.
    after: Cursor | None
    #: How many matches to skip first.
    skip: int
    #: Identifies the projections of the page before; None for the first page.
    lineage: str | None

    def check(self, lineage: str) -> None:
        """Check that the page is of the same projections as the one before.

        Raises:
            Problem: 410 where the log was replaced since.
        """
        if self.lineage is not None and self.lineage != _short(lineage):
            raise log_changed("cursor")


class Cursors:
    """Makes and reads cursors.

    Args:
        secret: Of the service; only a key that is derived from it is stored.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"jobtrail cursor", "sha256")

    def next_page(self, query: SearchQuery, last: Cursor, lineage: str, skip: int = 0) -> str:
        """Return the relative URL of the page after a job, with the same filters.

        Args:
            query: Of the page before.
            last: The job.
            lineage: Of the projections from which the page was read.
            skip: How many matches after the job are still to be skipped.
        """
        place = orjson.dumps([last.created_at, last.id, _short(lineage), skip])
        filters = _asked(query)
        cursor = urlsafe_b64encode(self._seal(filters, place) + place).rstrip(b"=").decode()
        size = "" if query.size == DEFAULT_SIZE else f"size={query.size}&"
        return f"{_SEARCH}?{filters}{'&' if filters else ''}{size}cursor={cursor}"

    def place(self, query: SearchQuery) -> Place:
        """Return where a query's page begins.

        Raises:
            Problem: 400 where the service did not make this cursor for these filters.
        """
        if query.cursor is None:
            return Place(None, query.offset, None)
        if query.offset:
            raise invalid(
                [RequestFault("parameter", "offset", "It can't go together with `cursor`.")]
            )
        try:
            sealed = urlsafe_b64decode(query.cursor.encode("ascii") + b"==")
        except ValueError:
            sealed = b""
        seal, place = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        if not hmac.compare_digest(seal, self._seal(_asked(query), place)):
            raise invalid(
                [
                    RequestFault(
                        "parameter", "cursor", "It was not given out for a search like this one."
                    )
                ]
            )
        created_at, job_id, lineage, skip = orjson.loads(place)
        return Place(Cursor(created_at, job_id), skip, lineage)

    def _seal(self, filters: str, place: bytes) -> bytes:
        # No filter can contain a line feed, so the signed text has one meaning.
        text = b"%b\n%b" % (filters.encode(), place)
        return blake2b(text, key=self._key, digest_size=_SEAL_BYTES).digest()


@lru_cache(maxsize=4)
def _short(lineage: str) -> str:
    return blake2b(lineage.encode(), digest_size=4).hexdigest()


def _asked(query: SearchQuery) -> str:
    """Return the query string of a listing, without its size and place."""
    filters = _filters(query.filters)
    cut = query.as_of
    if cut is None:
        return filters
    then = format_position(cut.position) if cut.instant is None else as_text(cut.instant)
    return f"{filters}{'&' if filters else ''}asOf={then}"


@lru_cache(maxsize=512)  # A query has 16 KiB at most: 8 MiB.
def _filters(filters: Filters) -> str:
    """Return filters as a query string in a canonical form."""
    pairs = [
        *(("jobType", name) for name in sorted(set(filters.job_types))),
        *(("state", state) for state in sorted(set(filters.states))),
        *(("tag", f"{key}:{value}") for key, value in sorted(set(filters.tags))),
        ("owner", filters.owner),
        ("bulkId", filters.bulk_id),
        ("startDate", as_text(filters.created_from)),
        ("endDate", as_text(filters.created_to)),
        ("updatedSince", as_text(filters.updated_since)),
    ]
    return "&".join(f"{name}={_quoted(value, ':')}" for name, value in pairs if value is not None)
