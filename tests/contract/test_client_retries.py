"""The client's wait against a service that is stopped, and started again, while it waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobtrail.client import Client
from jobtrail.core.states import State
from services.api.limits.limits import Timeouts
from tests.contract.api_service import held, running


@pytest.mark.parametrize("sign_of_life", [60, 0.001], ids=["refused", "cut off"])
async def test_a_wait_goes_on_with_the_next_service(tmp_path: Path, sign_of_life: float) -> None:
    async with running(tmp_path, timeouts=Timeouts(sign_of_life=sign_of_life)) as api:
        api.make_store()
        api.follow()
        api.emit("j", "created")
        await api.project()
        api.show()
        assert api.runner is not None
        port = int(api.url.rpartition(":")[2])
        async with Client(api.url, api.token("alice"), patience=30) as client:
            task = asyncio.create_task(client.wait(["j"]))
            await held(api, 1)
            for _ in range(50):
                # Time for a sign of life, where there are any.
                await api.metric("jobtrail_waits_held")
            await api.runner.cleanup()
            async with running(tmp_path, port=port) as other:
                other.records, other.projected = api.records, api.projected
                other.seconds = api.seconds
                other.follow()
                await held(other, 1)
                assert not task.done()
                other.emit("j", "completed")
                other.show()
                assert (await task)["j"].state is State.COMPLETED
