"""What the figures are compared with can be run: it uses parts of the service."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp

from tests.processes import Process, clean_environment

ROOT = Path(__file__).parents[2]


async def test_the_server_that_does_nothing_answers(tmp_path: Path, running: list[Process]) -> None:
    argv = [sys.executable, "-m", "benchmarks.peers.aiohttp_noop"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    peer = Process(argv, environment, tmp_path / "peer.log")
    running.append(peer)
    url = await peer.start()
    async with aiohttp.ClientSession(url) as session, session.get("/nothing") as answer:
        assert (answer.status, await answer.json()) == (200, {})
