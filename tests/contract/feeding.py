"""What the tests of the feed share: letting things happen, and listening."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tests.contract.api_service import Api
from tests.feed_reader import Reader, listen


async def happen(api: Api) -> None:
    """Let projector and tail take in what is in the log."""
    await api.project()
    api.show()


@contextlib.asynccontextmanager
async def feed(
    api: Api, query: str = "", headers: dict[str, str] | None = None, **more: str
) -> AsyncIterator[Reader]:
    """Listen, as an administrator where no headers say otherwise."""
    headers = (headers or api.bearer("root", reads_all=True)) | more
    async with listen(api.session, f"{api.url}/jobs/events{query}", headers) as reader:
        yield reader
