"""Following a log in a real Kafka, and exports that grow, on the command line."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
from pathlib import Path

import pytest
from pyarrow import parquet

from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.replaying import JOBS, begin, event, filled, run, write
from tests.waiting import look_again


@pytest.fixture
async def settings(make_log: MakeLog) -> Settings:
    return await filled(make_log)


async def test_the_command_follows_the_log(settings: Settings) -> None:
    async def told(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            found: str = json.loads(await process.stdout.readline())["id"]
        return found

    process = await begin(settings, "--follow")
    for _ in range(JOBS * 2 + JOBS * 2 // 3):
        await told(process)
    ids = []
    for number, second in (("new", 1), ("new2", 2)):
        new = event("created", number, second, jobType="t", owner="u")
        await write(settings, [(number, json.dumps(new).encode()), ("j1", b"no event")])
        ids.append(await told(process))
    assert ids == ["new.created", "new2.created"]
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"")
    word, position = err.decode().split()
    assert word == "position"
    one = await begin(settings, "--follow", "--since", position, "--job", "new")
    last = event("active", "new", 3)
    others = [("j2", json.dumps(event("progress", "j2", 4)).encode())]
    await write(settings, [*others, ("new", json.dumps(last).encode())])
    assert await told(one) == "new.active"
    one.send_signal(signal.SIGINT)
    out, _ = await one.communicate()
    assert (one.returncode, out) == (0, b"")
    # Whose a job is and what it carries is known of those from before the place, too.
    its = ("--user", "u1", "--job-type", "t1", "--state", "active")
    one = await begin(settings, "--follow", "--since", position, *its)
    others = [("j6", json.dumps(event("progress", "j6", 4)).encode())]
    mine = [("j21", json.dumps(event("progress", "j21", 4)).encode())]
    await write(settings, [*others, *mine])
    assert await told(one) == "j21.progress"
    one.send_signal(signal.SIGTERM)
    assert (await one.communicate())[0] == b""
    for cut in (
        ("--to", str(settings.data_dir / "a.duckdb")),
        ("--limit", "1"),
        ("--until", "0:1"),
    ):
        assert (await run(settings, "--follow", *cut))[0] == 2


def places(path: Path) -> list[tuple[int, int]]:
    """Return where the events of an export lie in the log, in order."""
    if path.suffix == ".parquet":
        rows = parquet.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    else:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return sorted((int(row["partition"]), int(row["offset"])) for row in rows)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.ndjson", ()),
        ("a.csv", ("--user", "u1", "--state", "active")),
        ("a.parquet", ("--job-type", "t1")),
        ("a.parquet", ("--by-day",)),
    ],
)
async def test_an_export_that_follows_goes_on_after_a_kill(
    settings: Settings, tmp_path: Path, name: str, how: tuple[str, ...]
) -> None:
    to, whole = tmp_path / name, tmp_path / f"whole-{name}"
    mark = tmp_path / f".{name}.growing" / "mark.json"

    async def marked(process: asyncio.subprocess.Process, before: bytes) -> bytes:
        """Wait for another mark."""
        async with asyncio.timeout(60):
            while not mark.exists() or (found := mark.read_bytes()) == before:
                assert process.returncode is None
                await look_again()
        return found

    process = await begin(settings, "--follow", "--to", str(to), *how)
    before = await marked(process, b"")
    if to.suffix != ".parquet":
        before = await marked(process, before)
        new = event("active", "j21", 40)
        await write(settings, [("j21", json.dumps(new | {"id": "n"}).encode())])
        await marked(process, before)
    process.kill()
    await process.communicate()
    if to.suffix != ".parquet":
        with to.open("ab") as file:
            file.write(b'{"half')
    # It ends as it is asked to, wherever it is, and what it holds then is whole.
    process = await begin(settings, "--follow", "--to", str(to), *how)
    status, out, _ = await run(settings, "--to", str(whole), "--since", "last", *how, "--json")
    assert status == 0
    rows = json.loads(out)["rows"]
    assert process.returncode is None, await process.communicate()
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    assert (process.returncode, err[:9]) == (0, b"position "), err
    status, out, _ = await run(settings, "--to", str(to), "--since", "last", *how, "--json")
    assert status == 0, out
    assert json.loads(out)["position"] == json.loads(mark.read_bytes())["position"]
    assert places(to) == places(whole)
    assert len(set(places(to))) == len(places(to)) == rows > 0
    status, out, _ = await run(settings, "--to", str(to), "--since", "last", *how, "--json")
    assert (status, json.loads(out)["rows"]) == (0, 0)
    assert (await run(settings, "--to", str(to), "--since", "last", "--user", "u4"))[0] == 2


async def test_a_database_is_begun_and_grows_by_one_command(
    settings: Settings, tmp_path: Path
) -> None:
    command = ("--to", str(tmp_path / "log.duckdb"), "--since", "last", "--json")
    status, out, _ = await run(settings, *command)
    assert (status, json.loads(out)["rows"]) == (0, JOBS * 2 + JOBS * 2 // 3)
    await write(settings, [("j0", json.dumps(event("failed", "j0", 50)).encode())])
    status, out, _ = await run(settings, *command)
    assert (status, json.loads(out)["rows"]) == (0, 1)
    for wrong in (command[2:], (*command, "--user", "u1"), (*command, "--limit", "1")):
        assert (await run(settings, *wrong))[0] == 2
