"""`jobtrail projector` and `jobtrail api` as a test handles them, each with a port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import aiohttp

from jobtrail.settings import Settings
from tests.e2e.service import command
from tests.processes import Process, clean_environment, free_port

#: Seconds after which a test gives up waiting for anything.
DEADLINE: Final = 90.0
#: Seconds between two looks at a process.
LOOK: Final = 0.05


class Own(NamedTuple):
    """A process that was started by a command of its own, or is about to be."""

    process: Process
    #: Where it answers for its health.
    url: str


def environment(settings: Settings, **others: str) -> dict[str, str]:
    """Return the variables that a process needs beside the options of its command."""
    named = {
        "JOBTRAIL_TOPIC": settings.topic,
        "JOBTRAIL_DEAD_TOPIC": settings.dead_topic,
        "JOBTRAIL_GROUP": settings.group,
        "JOBTRAIL_STALLED_AFTER": str(settings.stalled_after),
    }
    return {**clean_environment(), **named, **others}


def own(settings: Settings, kind: str, label: str, *options: str) -> Process:
    """Return a command on these settings, not started yet."""
    logs = settings.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    places = ("--bootstrap-servers", settings.bootstrap_servers, "--data-dir")
    argv = command(kind, *places, str(settings.data_dir), *options)
    return Process(argv, environment(settings), logs / f"{label}.log")


def own_projector(settings: Settings, number: int) -> Own:
    """Return a projector, not started yet."""
    port, name = free_port(), f"projector-{number}"
    options = ("--name", name, "--health-port", str(port))
    return Own(own(settings, "projector", name, *options), f"http://127.0.0.1:{port}")


def own_api(settings: Settings, number: int, *options: str) -> Own:
    """Return an API process, not started yet."""
    port = free_port()
    process = own(settings, "api", f"api-{number}", "--port", str(port), *options)
    return Own(process, f"http://127.0.0.1:{port}")


async def readiness(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    """Return the status of `/readyz` and what it says; 0 where nobody answers."""
    try:
        async with session.get(f"{url}/readyz") as answer:
            return answer.status, await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError):
        return 0, {}


async def until_ready_is(
    session: aiohttp.ClientSession,
    url: str,
    condition: Callable[[int, Mapping[str, Any]], bool],
    within: float = DEADLINE,
) -> dict[str, Any]:
    """Wait until `/readyz` says something; return what it says then.

    Args:
        session: To ask with.
        url: Of the process.
        condition: Takes the status and what it says.
        within: Seconds after which it fails.
    """
    said: tuple[int, dict[str, Any]] = (0, {})
    try:
        async with asyncio.timeout(within):
            while not condition(*(said := await readiness(session, url))):
                await asyncio.sleep(LOOK)
    except TimeoutError:
        raise AssertionError(f"in {within:.0f} s /readyz has not come to it: {said}") from None
    return said[1]


def is_ready(status: int, _said: Mapping[str, Any]) -> bool:
    """Tell whether a process is ready."""
    return status == 200


async def figures(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Return what `/metrics` tells, by name and labels."""
    async with session.get(f"{url}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}
