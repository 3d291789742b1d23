"""Reads `GET /jobs/events` as a browser would: block by block, keeping the last id."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import aiohttp


class Block(NamedTuple):
    """One block of a stream: its fields, each at most once."""

    id: str | None
    event: str | None
    data: Any
    retry: str | None


class Reader:
    """Somebody who listens."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id = ""
        self._rest = b""

    async def block(self) -> Block | None:
        """Return the next block; None where the stream has ended in order."""
        while b"\n\n" not in self._rest:
            chunk = await self.response.content.readany()
            if not chunk:
                assert self._rest == b"", "the stream ended within a block"
                return None
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\n\n")
        fields: dict[str, str] = {}
        for line in text.decode().split("\n"):
            name, colon, value = line.partition(": ")
            assert colon, f"{line!r} is no field"
            assert name not in fields, f"{name} stands twice in a block"
            fields[name] = value
        assert fields.keys() <= {"id", "event", "data", "retry"}
        self.last_id = fields.get("id", self.last_id)
        data = json.loads(fields["data"]) if "data" in fields else None
        return Block(fields.get("id"), fields.get("event"), data, fields.get("retry"))

    async def changes(self, count: int) -> list[Any]:
        """Return the data of the next events."""
        found: list[Any] = []
        while len(found) < count:
            block = await self.block()
            assert block is not None, "the stream has ended"
            if block.data is not None:
                found.append(block.data)
        return found

    async def told(self, count: int) -> list[tuple[str, str]]:
        """Return of the next events the job and the type."""
        return [(c["job"]["id"], c["type"]) for c in await self.changes(count)]


@contextlib.asynccontextmanager
async def listen(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]
) -> AsyncIterator[Reader]:
    """Listen, and have read the first block: it says where the stream begins."""
    async with session.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        reader = Reader(response)
        first = await reader.block()
        assert first is not None
        assert first.retry == "1000"
        yield reader
