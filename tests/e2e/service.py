"""A whole local service, as `jobtrail up` runs it, and a client to ask it with."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from jobtrail.access.tokens import local_secret, make_token
from tests.processes import Process, clean_environment


class Service:
    """`jobtrail up` on a data folder."""

    def __init__(self, data_dir: Path, *options: str, settings: Mapping[str, str] = {}) -> None:
        self.data_dir = data_dir
        self._environment = {**clean_environment(), **settings}
        argv = command("--data-dir", str(data_dir), "up", "--port", "0", *options)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.process = Process(argv, self._environment, data_dir / "up.log")
        self.url = ""

    async def start(self) -> None:
        self.url = await self.process.start()

    def children(self, words: str) -> list[psutil.Process]:
        """The processes below `up` whose command line holds these words."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            # One may end while it is looked at.
            with contextlib.suppress(psutil.NoSuchProcess):
                if words in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def client(
        self, user: str, *, groups: Sequence[str] = (), permissions: Sequence[str] = ()
    ) -> aiohttp.ClientSession:
        """A session that asks as this user."""
        token = make_token(local_secret(self.data_dir), user, groups, permissions)
        return aiohttp.ClientSession(self.url, headers={"Authorization": f"Bearer {token}"})

    def admin(self) -> aiohttp.ClientSession:
        """A session that sees every job."""
        return self.client("admin", permissions=["jobs:read:all"])

    def command(self, *arguments: str) -> Process:
        """A `jobtrail` command on this data folder, not started yet."""
        argv = command("--data-dir", str(self.data_dir), *arguments)
        return Process(argv, self._environment, self.data_dir / f"{arguments[0]}.log")


def command(*arguments: str) -> list[str]:
    """The argument vector of a `jobtrail` command."""
    return [sys.executable, "-m", "jobtrail", *arguments]


async def get(
    session: aiohttp.ClientSession, path: str, params: Sequence[tuple[str, str]] = ()
) -> Any:
    """GET a path and return its JSON; anything but 200 fails."""
    async with session.get(path, params=list(params)) as answer:
        assert answer.status == 200, f"{answer.status}: {await answer.text()}"
        return await answer.json(content_type=None)


async def pages(session: aiohttp.ClientSession, path: str) -> AsyncIterator[list[Any]]:
    """Every page of a search, by its `next`."""
    following: str | None = path
    while following is not None:
        page = await get(session, following)
        yield page["jobs"]
        following = page["next"]
