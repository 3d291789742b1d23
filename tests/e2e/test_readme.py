"""What the documents tell a reader to type, as printed, against a service as `make up` runs it.

These are the shell blocks of README.md and the Python blocks of all pages.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from jobtrail.access.tokens import local_secret, make_token
from tests.e2e.doc_blocks import PAGES, ROOT, Block, blocks, program, run
from tests.e2e.service import Service
from tests.processes import clean_environment

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_one_that_is_found(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    marked = text.count("<!-- not run: ")
    assert len(blocks(text)) + marked == len(re.findall(r"^\s*(?:```|~~~)py", text, re.MULTILINE))


def test_a_block_runs_at_its_line_unless_a_reason_is_given() -> None:
    first, second, third = (f"```python\n{text}\n```\n" for text in ("a = 1", "b", "c"))
    text = f"# A\n\n{first}<!-- not run: why -->\n{second}{third}"
    assert blocks(text) == [Block(4, "a = 1\n"), Block(11, "c\n")]
    assert program(blocks(text), {"c": "a"}).splitlines() == [*[""] * 3, "a = 1", *[""] * 6, "a"]
    assert len(blocks(text.replace(": why", ": "))) == 3


@pytest.mark.timeout(240)
async def test_what_is_printed_works_in_the_order_of_its_page(tmp_path: Path) -> None:
    command = shutil.which("jobtrail", path=str(Path(sys.executable).parent))
    assert command, "jobtrail is not installed beside this Python: pip install -e ."
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "jobtrail").symlink_to(command)
    service = Service(tmp_path / "data")
    await service.start()
    try:
        await _readme(service, tmp_path)
        archive = tmp_path / "archive"
        await shell(f".venv/bin/jobtrail archive --to {archive}", service, tmp_path)
        for page in PAGES:
            found = blocks(page.read_text(encoding="utf-8"))
            if found and page.name != "README.md":
                await _run(page.name, found, service, tmp_path, {"/backup/jobs": str(archive)})
        assert await service.process.stop() == 0
    finally:
        await service.process.kill()


async def _readme(service: Service, folder: Path) -> None:
    """Run the README's blocks, those of the shell and those in Python."""
    producing, asking = blocks(README)
    produced = await shell(block("producer"), service, folder)
    assert f"It prints `{produced.strip()}`" in README
    await _run("README.md", [producing], service, folder, {})
    search, summary = await asyncio.gather(
        shell(_only(block("query"), "search"), service, folder),
        shell(_only(block("query"), "summary"), service, folder),
    )
    (job,) = json.loads(search)["jobs"]
    assert (job["id"], job["state"], job["owner"]) == ("nightly-1", "active", "alice")
    counted = {of["jobType"]: of for of in json.loads(summary)["jobType"]}
    assert (counted["bulkPolicy"]["total"], counted["bulkPolicy"]["active"]) == (1, 1)
    # One shell, as a reader has it: the wait uses the query's variables.
    waited = await shell(block("query") + block("wait"), service, folder)
    promised = re.search(r"ended:\n`(.*)`", README)
    assert promised
    assert promised[1] in waited
    told = await _run("README.md", [asking], service, folder, {})
    assert told.splitlines()[-1] == "nightly-1 job.completed completed"
    assert "ready" in await shell(block("status"), service, folder)


async def _run(
    name: str, some: list[Block], service: Service, folder: Path, replaced: dict[str, str]
) -> str:
    """Run blocks of a page as a reader of the quick start would; return what they printed."""
    token = make_token(local_secret(service.data_dir), "alice", (), ())
    environment = {
        **clean_environment(),
        "JOBTRAIL_DATA_DIR": str(service.data_dir),
        "TOKEN": token,
    }
    return await run(name, program(some, {URL: service.url, **replaced}), folder, environment)


def _only(script: str, endpoint: str) -> str:
    """Keep the assignments and the one curl of an endpoint, so that its answer stands alone."""
    lines = [line for line in script.splitlines() if "curl" not in line or endpoint in line]
    return "\n".join(lines)
