"""`jobtrail emit` as people's scripts run it: what it sends, prints and says of bad lines."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jobtrail.core.events import MAX_EVENT_BYTES
from jobtrail.core.position import format_position
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import Log, event
from tests.e2e.service import command
from tests.faults.flows import DEADLINE, read_log
from tests.processes import Process, clean_environment
from tests.waiting import look_again


class Outcome(NamedTuple):
    """How a command ended, and what it printed and said."""

    status: int
    out: str
    err: str


def prepared(folder: Path, environment: Mapping[str, str], *arguments: str) -> Process:
    """Return a command whose standard error goes to a new file in a folder, not started yet."""
    log = folder / f"{uuid.uuid4().hex}.err"
    return Process(command(*arguments), environment, log)


async def outcome(process: Process, given: bytes = b"") -> Outcome:
    """Give a started command its input, and wait for its end."""
    async with asyncio.timeout(DEADLINE):
        out, _ = await process.child.communicate(given)
    assert process.child.returncode is not None
    return Outcome(process.child.returncode, out.decode(), process.log.read_text())


async def emit(settings: Settings, *arguments: str, given: bytes = b"") -> Outcome:
    """Run `jobtrail emit` on a log."""
    process = prepared(settings.data_dir, child_environment(settings), "emit", *arguments)
    await process.spawn()
    return await outcome(process, given)


def lines(count: int, first: int = 0) -> list[bytes]:
    """Return good events of a few jobs, a line each."""
    return [event("progress", f"job-{n % 7}", f"e{n}") for n in range(first, first + count)]


def values_by_job(log: Log) -> dict[bytes, list[bytes]]:
    """Return what a log holds of each key, in order."""
    found: dict[bytes, list[bytes]] = {}
    for records in log.records.values():
        for record in records:
            assert record.key is not None
            assert record.value is not None
            found.setdefault(record.key, []).append(record.value)
    return found


async def holds_exactly(settings: Settings, sent: list[bytes]) -> str:
    """Compare a log with what was sent, job by job; return the position behind it."""
    log = await read_log(settings)
    expected: dict[bytes, list[bytes]] = {}
    for line in sent:
        expected.setdefault(json.loads(line)["subject"].encode(), []).append(line)
    assert values_by_job(log) == expected
    return format_position({p: end for p, end in log.ends().items() if end})


async def test_a_file_is_sent_and_its_position_printed(make_log: MakeLog) -> None:
    settings, sent = await make_log(), lines(100)
    file = settings.data_dir / "events.ndjson"
    file.write_bytes(b"\n".join(sent) + b"\n")
    found = await emit(settings, str(file))
    position = await holds_exactly(settings, sent)
    assert found == (0, f"100 events acknowledged, position {position}\n", "")


@pytest.mark.parametrize("arguments", [(), ("-",)])
async def test_standard_input_is_sent_as_it_comes(
    make_log: MakeLog, arguments: tuple[str, ...]
) -> None:
    """Blank lines and Windows' line ends are no fault, nor is a last line without an end."""
    settings, sent = await make_log(), lines(5)
    process = prepared(settings.data_dir, child_environment(settings), "emit", *arguments)
    await process.spawn()
    assert process.child.stdin is not None
    process.child.stdin.write(sent[0] + b"\r\n\n  \n" + sent[1] + b"\n" + sent[2][:20])
    async with asyncio.timeout(DEADLINE):
        while len(await read_log(settings)) < 2:
            await look_again()
    found = await outcome(process, sent[2][20:] + b"\n" + sent[3] + b"\n" + sent[4])
    position = await holds_exactly(settings, sent)
    assert found == (0, f"5 events acknowledged, position {position}\n", "")


async def test_more_than_may_be_under_way_at_a_time_is_sent(make_log: MakeLog) -> None:
    settings, sent = await make_log(), lines(12_000)
    found = await emit(settings, "--json", given=b"\n".join(sent))
    position = await holds_exactly(settings, sent)
    assert json.loads(found.out) == {"acknowledged": 12_000, "refused": 0, "position": position}
    assert (found.status, found.err) == (0, "")


async def test_bad_lines_are_named_and_the_rest_is_sent(make_log: MakeLog) -> None:
    settings, sent = await make_log(), lines(4)
    overlong = b'"' + b"x" * (3 * MAX_EVENT_BYTES) + b'"'
    given = [
        sent[0],
        b"no JSON",
        b"",
        sent[1].replace(b"//s", b"\xff"),
        sent[1],
        overlong,
        sent[2],
        b'{"specversion":"1.0"}',
        b" " * 10 + sent[3],
        overlong,
    ]
    found = await emit(settings, given=b"\n".join(given))
    position = await holds_exactly(settings, sent)
    assert (found.status, found.out) == (1, f"4 events acknowledged, position {position}\n")
    said = found.err.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "line 2", "line 4", "line 6", "line 8", "line 10", "5 lines refused",
    ]  # fmt: skip
    assert "is not JSON" in said[0]
    assert "is not UTF-8" in said[1]
    assert "is too large" in said[2]
    assert "is too large" in said[4]


async def test_nothing_to_send_is_no_fault(make_log: MakeLog) -> None:
    settings = await make_log()
    empty = settings.data_dir / "empty.ndjson"
    empty.touch()
    found = await asyncio.gather(
        emit(settings), emit(settings, str(empty), "--json"), emit(settings, given=b"x\n")
    )
    assert found[0] == (0, "0 events acknowledged\n", "")
    assert json.loads(found[1].out) == {"acknowledged": 0, "refused": 0, "position": None}
    assert (found[2].status, found[2].out) == (1, "0 events acknowledged\n")


async def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path) -> None:
    """Without a service, without a Kafka: exit status 1; used wrongly: 2."""

    async def run(*arguments: str, **environment: Any) -> Outcome:
        process = prepared(tmp_path, {**clean_environment(), **environment}, *arguments)
        await process.spawn()
        return await outcome(process)

    nobody = ("--data-dir", str(tmp_path / "nothing"))
    none, behind, unreachable, option, file, setting = await asyncio.gather(
        run(*nobody, "emit"),
        run("emit", *nobody),
        run("emit", "--bootstrap-servers", "127.0.0.1:1"),
        run("emit", "--no-such-option"),
        run("emit", str(tmp_path / "missing.ndjson")),
        run("emit", *nobody, JOBTRAIL_PORT="99999"),
    )
    for found in (none, behind):
        assert (found.status, found.out) == (1, "")
        (line,) = found.err.splitlines()
        assert line.startswith(f"error: No local service is running. Where: {nobody[1]}.")
        assert "jobtrail up" in line
    assert (unreachable.status, unreachable.out) == (1, "")
    assert "error: Kafka " in unreachable.err
    assert "127.0.0.1:1" in unreachable.err
    assert "Traceback" not in unreachable.err
    for found, word in ((option, "--no-such-option"), (file, "missing.ndjson"), (setting, "PORT")):
        assert (found.status, found.out) == (2, ""), found
        assert word in found.err
        assert "Traceback" not in found.err
