"""A private PostgreSQL as a child process, for tests and for what the figures are compared with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import asyncpg

from tests.waiting import look_again

#: Seconds in which a server starts or stops.
WITHIN: Final = 60.0
#: PostgreSQL refuses to run as root.
_AS_OTHER: Final = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
#: What a test has to lose is not worth waiting for the disk.
_FOR_TESTS: Final = {"fsync": "off"}


def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, of the newest version that is installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


class Postgres:
    """One PostgreSQL on a free port, in a folder of its own.

    Args:
        programs: Where PostgreSQL's programs are.
        parameters: What differs from what PostgreSQL ships.
        place: In which folder it makes its own; another user than ours may have to go there.
    """

    def __init__(
        self,
        programs: Path,
        parameters: Mapping[str, str] = _FOR_TESTS,
        place: Path | None = None,
    ) -> None:
        self._programs = programs
        self._parameters = parameters
        self._as_other = _AS_OTHER if os.geteuid() == 0 else ()
        # Not below pytest's folders: another user than their owner can't go there.
        self._folder = Path(tempfile.mkdtemp(prefix="jobtrail-pg-", dir=place))
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

    @property
    def pid(self) -> int:
        """The server's process, whose children serve the connections."""
        assert self._child is not None, "not started"
        return self._child.pid

    async def start(self) -> Self:
        """Start it, and wait until it answers."""
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._log = Path(log.name)
            self._child = await asyncio.create_subprocess_exec(
                *self._argv(), stdout=log, stderr=log, cwd=self._folder
            )
        async with asyncio.timeout(WITHIN):
            while True:
                assert self._child.returncode is None, self._log.read_text()
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    await (await asyncpg.connect(self.dsn("postgres"))).close()
                    return self
                await look_again()

    def _argv(self) -> list[str]:
        parameters = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            **self._parameters,
        }
        argv = [str(self._programs / "postgres"), "-D", str(self._folder / "data")]
        argv += ["-p", str(self.port)]
        for name, value in parameters.items():
            argv += ["-c", f"{name}={value}"]
        if shutil.which("setpriv") is None:
            return argv
        # It does not outlive us, however we end.
        return [*(self._as_other or ("setpriv",)), "--pdeathsig=QUIT", *argv]

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
        """Return how a database is reached."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    async def make(self, database: str) -> str:
        """Make a database; return its DSN."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()
        return self.dsn(database)
