"""The Python blocks of README.md, CONTRIBUTING.md and docs/*.md, as programs.

A program has the lines of its page and nothing of the text between them, so that a traceback names
the line of the page. A block that can't run says why in the line above it: `<!-- not run: why -->`.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN: Final = re.compile(r"<!-- not run: \S.*-->\n\Z")
#: Seconds that one page's program may take.
_WITHIN: Final = 60.0


class Block(NamedTuple):
    """A block: the line of its page that it begins at, counted from 1, and its text."""

    line: int
    text: str


def blocks(page: str) -> list[Block]:
    """Return the Python blocks of a page that are to be run, in their order."""
    return [
        Block(page.count("\n", 0, found.start(1)) + 1, found[1])
        for found in _BLOCK.finditer(page)
        if not _NOT_RUN.search(page[: found.start()])
    ]


def program(some: Iterable[Block], replaced: Mapping[str, str]) -> str:
    """Return blocks of one page as a program.

    Args:
        some: In the order of the page.
        replaced: What stands in the text for something of the reader's, and what it is here.
    """
    lines: list[str] = []
    for block in some:
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    made = "\n".join(lines) + "\n"
    for written, here in replaced.items():
        made = made.replace(written, here)
    return made


async def run(name: str, made: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a program by a Python of its own, in a folder; return what it printed.

    Args:
        name: The page's, for tracebacks.
        made: The program.
        folder: Where relative paths of the program lead.
        environment: All of its environment.
    """
    file = folder / f"{name}.py"  # "celery.md.py" is no module that could be imported by mistake
    file.write_text(made, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(file),
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_WITHIN):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{name}:\n{err.decode()}"
    return out.decode()
