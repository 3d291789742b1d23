"""A service that takes the tokens of an OIDC provider, and what their bearers see of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from services.api.limits.limits import Timeouts
from tests.contract.api_service import Answer, Api, running
from tests.contract.oidc_provider import bearer

#: Fetches whenever there is reason to.
EAGER = Timeouts(unknown=0.2, refetch=0)


@contextlib.asynccontextmanager
async def service(folder: Path, **options: Any) -> AsyncIterator[Api]:
    """Run a service that knows a job of alice, which ops may see, and one of eve."""
    async with running(folder, **options) as api:
        api.make_store()
        api.emit("hers", "created", viewers=["group:ops"])
        api.emit("foreign", "created", owner="eve")
        await api.project()
        api.follow()
        yield api


async def seen(api: Api, token: str) -> list[str]:
    """Return the ids of the jobs that a token's bearer sees."""
    answer = await api.get("/jobs/search", bearer(token))
    assert answer.status == 200, answer.body
    return sorted(job["id"] for job in answer.json["jobs"])


async def try_to_enter(api: Api, header: str | None) -> Answer:
    """Ask for jobs with an `Authorization` header."""
    headers = {} if header is None else {"Authorization": header}
    return await api.send("GET", "/jobs/search", headers)
