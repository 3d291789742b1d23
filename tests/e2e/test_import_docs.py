"""docs/importing.md: its files, its commands and what it says they print."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

from jobtrail.core.states import State
from jobtrail.importing.mapping import ALL_FIELDS
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.test_import import events, jobs

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "importing.md").read_text(encoding="utf-8")
BLOCK: Final = re.compile(r"<!-- (\w+): (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)


async def shell(script: str, settings: Settings) -> str:
    """Run a block in the folder that has the page's files; return what it prints and says."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script.replace("jobtrail ", f"{sys.executable} -m jobtrail ")),
        cwd=settings.data_dir,
        env={**child_environment(settings), "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return (out + err).decode()


async def test_the_page_works_as_printed(make_log: MakeLog) -> None:
    settings = await make_log()
    blocks = BLOCK.findall(PAGE)
    assert PAGE.count("```") == 2 * len(blocks)
    for kind, name, text in blocks:
        if kind == "file":
            (settings.data_dir / name).write_text(text)
    outputs = {name: text for kind, name, text in blocks if kind == "output"}
    runs = {name: text for kind, name, text in blocks if kind == "run"}
    assert set(runs) == set(outputs)
    for name, script in runs.items():
        assert await shell(script, settings) == outputs[name], name
    folded, judged = await jobs(settings)
    assert {job: found.state for job, found in folded.items()} == {
        "4711": State.COMPLETED,
        "4712": State.FAILED,
        "4713": State.CREATED,
        "a-1": State.COMPLETED,
    }
    assert judged == {**dict.fromkeys(judged, 0), "applied": sum(judged.values())}
    assert folded["4711"].owner == "alice"
    assert folded["a-1"].attempt == 1
    assert sum(map(len, (await events(settings)).values())) == 13


def test_every_field_of_an_event_has_its_key_on_the_page() -> None:
    for key in ALL_FIELDS:
        assert re.search(rf"^\|.*`{key}`.*\|", PAGE, re.MULTILINE), key
