"""Queries that only another module of ours can answer, run as a process.

This package imports neither the broker nor the projections.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings

#: Timeout of an answer, in seconds.
_WITHIN: Final = 60.0


class NoAnswer(Exception):
    """A module could not answer; the text has the reason."""


async def ask(settings: Settings, module: str, *arguments: str) -> bytes:
    """Run a module; return its standard output.

    Raises:
        NoAnswer: It failed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(settings),
    )
    try:
        async with asyncio.timeout(_WITHIN):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NoAnswer(f"no answer within {_WITHIN:.0f} s") from None
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise NoAnswer(lines[-1] if lines else f"exit status {process.returncode}")
    return output
