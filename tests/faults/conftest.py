"""A broker that tests may harm: not the one that all the others use."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import managed_broker
from tests.faults.flows import DEADLINE
from tests.processes import Process


class OwnBroker:
    """A local broker on a folder, and its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "broker"
        self.process: Process = managed_broker(folder)
        self.servers = ""

    async def start(self) -> None:
        """Start it; clients find it where it was."""
        servers = await self.process.start()
        assert self.servers in ("", servers)
        self.servers = servers

    async def cut_power(self) -> None:
        """Kill its Java; what Kafka had acknowledged may not be on the disk yet."""
        os.kill(int((self._folder / "broker.pid").read_text()), signal.SIGKILL)
        async with asyncio.timeout(DEADLINE):
            assert await self.process.child.wait() == 1

    def segment(self, topic: str, partition: int) -> Path:
        """The one file that holds a small partition's records."""
        (file,) = (self._folder / "kafka" / f"{topic}-{partition}").glob("*.log")
        return file


@pytest.fixture(scope="session")
async def own_broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnBroker]:
    """Run a broker; a test that stops it starts it again."""
    broker = OwnBroker(tmp_path_factory.mktemp("own"))
    try:
        await broker.start()
        yield broker
    finally:
        await broker.process.stop()
