"""A broker that tests may harm: not the one that all the others use."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
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

    @property
    def data(self) -> Path:
        """Where Kafka keeps all of its logs."""
        return self._folder / "kafka"

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

    def cut_out(self, topic: str, partition: int) -> tuple[int, int]:
        """Take one batch out of the middle of a partition; return its offsets, the end exclusive.

        Only while the broker is down. The indexes go too: they are made again.
        """
        segment = self.segment(topic, partition)
        data, batches = segment.read_bytes(), self._batches(topic, partition)
        begin, end, first, behind = batches[len(batches) // 2]
        segment.write_bytes(data[:begin] + data[end:])
        for index in segment.parent.glob("*index"):
            index.unlink()
        return first, behind

    def rot(self, topic: str, partition: int, *, last: bool = False) -> tuple[int, int]:
        """Flip a bit in a record in the middle of a partition; return its batch's offsets.

        Only while the broker is down, and after it was stopped: one that was killed looks.
        """
        batches = self._batches(topic, partition)
        _, end, first, behind = batches[-1 if last else len(batches) // 2]
        data = bytearray(self.segment(topic, partition).read_bytes())
        data[end - 2] ^= 1
        self.segment(topic, partition).write_bytes(data)
        return first, behind

    def _batches(self, topic: str, partition: int) -> list[tuple[int, int, int, int]]:
        """Return where batches lie in a segment, and their offsets; ends are exclusive."""
        data, batches, at = self.segment(topic, partition).read_bytes(), [], 0
        while at < len(data):
            base, length = struct.unpack_from(">qi", data, at)
            (last,) = struct.unpack_from(">i", data, at + 23)
            batches.append((at, at + 12 + length, base, base + last + 1))
            at += 12 + length
        return batches

    def segment(self, topic: str, partition: int) -> Path:
        """The one file that holds a small partition's records."""
        (file,) = (self._folder / "kafka" / f"{topic}-{partition}").glob("*.log")
        return file

    def lose_segment(self, topic: str, partition: int, first: int) -> None:
        """Delete the files of a segment by its first offset; the broker must not run."""
        folder = self._folder / "kafka" / f"{topic}-{partition}"
        files = list(folder.glob(f"{first:020}.*"))
        assert files, sorted(folder.iterdir())
        for file in files:
            file.unlink()


@pytest.fixture(scope="session")
async def own_broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnBroker]:
    """Run a broker; a test that stops it starts it again."""
    broker = OwnBroker(tmp_path_factory.mktemp("own"))
    try:
        await broker.start()
        yield broker
    finally:
        await broker.process.stop()
