"""The README's commands, as printed, against a service as `make up` runs it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.service import Service
from tests.processes import clean_environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
#: The port that the README names; here it is a free one.
URL = "http://127.0.0.1:8040"


def block(name: str) -> str:
    """Return the shell block behind `<!-- run: name -->`."""
    found = re.search(rf"<!-- run: {name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block {name!r}"
    return found[1]


async def shell(script: str, service: Service, folder: Path) -> str:
    """Run a block in a folder that has `.venv/bin/jobtrail`; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script.replace(URL, service.url),
        cwd=folder,
        env={**clean_environment(), "JOBTRAIL_DATA_DIR": str(service.data_dir)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_every_block_is_run_or_is_a_make_command() -> None:
    blocks = re.findall(r"(<!-- run: \w+ -->\n)?```sh\n(.*?)```", README, re.DOTALL)
    assert blocks
    for marker, text in blocks:
        assert marker or re.fullmatch(r"make (up|test)\n", text), text


def test_make_commands_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"up", "test", "bench"} <= set(targets)


@pytest.mark.timeout(240)
async def test_readme_works_as_printed(tmp_path: Path) -> None:
    command = shutil.which("jobtrail", path=str(Path(sys.executable).parent))
    assert command, "jobtrail is not installed beside this Python: pip install -e ."
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "jobtrail").symlink_to(command)
    service = Service(tmp_path / "data")
    await service.start()
    try:
        produced = await shell(block("producer"), service, tmp_path)
        assert f"It prints `{produced.strip()}`" in README
        search, summary = await asyncio.gather(
            *(
                shell(script, service, tmp_path)
                for script in (
                    _only(block("query"), "search"),
                    _only(block("query"), "summary"),
                )
            )
        )
        (job,) = json.loads(search)["jobs"]
        assert (job["id"], job["state"], job["owner"]) == ("nightly-1", "active", "alice")
        (counted,) = json.loads(summary)["jobType"]
        assert (counted["jobType"], counted["total"], counted["active"]) == ("bulkPolicy", 1, 1)
        # One shell, as a reader has it: the wait uses the query's variables.
        waited = await shell(block("query") + block("wait"), service, tmp_path)
        promised = re.search(r"ended:\n`(.*)`", README)
        assert promised
        assert promised[1] in waited
        assert "ready" in await shell(block("status"), service, tmp_path)
        assert await service.process.stop() == 0
    finally:
        await service.process.kill()


def _only(script: str, endpoint: str) -> str:
    """Keep the assignments and the one curl of an endpoint, so that its answer stands alone."""
    lines = [line for line in script.splitlines() if "curl" not in line or endpoint in line]
    return "\n".join(lines)
