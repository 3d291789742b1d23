"""`jobtrail status`: what runs, its lag, and the number of jobs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson

from jobtrail.cli.common import chosen_data_dir, data_dir_option, url_option
from jobtrail.cli.proof import token_options, whom_to_ask
from jobtrail.contract.readiness import reasons_of
from jobtrail.core.durations import duration
from jobtrail.core.errors import JobtrailError, NotRunning
from jobtrail.core.position import parse_position
from jobtrail.local.running import Running, read_running, with_log
from jobtrail.local.verified import read_verified
from jobtrail.log.dead_topic import open_letters
from jobtrail.processes.process_states import Processes, ProcessState, now, read_processes
from jobtrail.settings import Settings, load
from jobtrail.terminal.tables import Grid, Screen
from jobtrail.terminal.text import out_json
from jobtrail.version import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@token_options
@url_option
@data_dir_option
def status(
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Show what runs, the lag of each partition, the number of jobs, and versions.

    The exit status is 1 where nothing runs, it is not ready, or a process does not run as it
    should; `reasons` has the causes.
    """
    settings = load(data_dir=chosen_data_dir(data_dir))
    running = None if url else _running(settings.data_dir)
    states = None if url else _processes(settings.data_dir)
    url = url or (running.url if running else "")
    found: dict[str, Any] = {
        "url": url, "ready": False, "health": {}, "partitions": [], "jobs": None, "reasons": [],
    }  # fmt: skip
    if url:
        try:
            asked = whom_to_ask(settings, url, token, token_file, "jobtrail-status")
            found |= asyncio.run(_ask(*asked))
        except NotRunning as error:
            if states is None:
                raise
            found["reasons"].append(str(error))
    else:
        found["reasons"].append("the service is starting")
    found["versions"] = {"jobtrail": __version__}
    if running is not None:
        found["pid"] = running.pid
        found["bootstrapServers"] = running.bootstrap_servers
        found["clientProperties"] = running.client_properties or None
        found["deadLetters"] = asyncio.run(_dead_letters(with_log(settings)))
        found["verified"] = _verified(settings)
    if states is not None:
        rows = [_process(process) for process in states.processes]
        found["processes"] = rows
        found["reasons"] += [row["trouble"] for row in rows if row["trouble"]]
    if as_json:
        out_json(orjson.dumps(found))
    else:
        _show(found)
    if not found["ready"] or found["reasons"]:
        raise SystemExit(1)


def _processes(data_dir: Path) -> Processes | None:
    states = read_processes(data_dir)
    return states if states is not None and states.current else None


def _running(data_dir: Path) -> Running | None:
    """Return the service that runs; None where it is being started.

    Raises:
        NotRunning: There is none.
    """
    try:
        return read_running(data_dir)
    except NotRunning:
        if _processes(data_dir) is None:
            raise
        return None


def _process(process: ProcessState) -> dict[str, Any]:
    last = process.ends[-1] if process.ends else None
    return {
        "name": process.name,
        "state": process.state,
        "since": _instant(process.since),
        "pid": process.pid,
        "startedAt": _instant(process.started_at),
        "restarts": process.restarts,
        "lastEnd": None
        if last is None
        else {"at": _instant(last.at), "reason": last.reason, "said": last.said},
        "trouble": process.trouble(now()) or process.log_fault or None,
    }


def _instant(at: float | None) -> str | None:
    if at is None:
        return None
    return f"{datetime.fromtimestamp(int(at), UTC):%Y-%m-%dT%H:%M:%SZ}"


async def _ask(url: str, token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{url}/readyz") as answer:
                ready = answer.status == 200
                health = await answer.json(content_type=None)
            async with session.get(f"{url}/jobs/summary", headers=headers) as answer:
                summary = await answer.json(content_type=None) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NotRunning("The service does not answer.", where=url, found=repr(error)) from None
    return {
        "ready": ready,
        "health": health,
        "partitions": _partitions(health),
        "jobs": _jobs(summary),
        "reasons": [] if ready else (reasons_of(health) or ["the service is not ready"]),
    }


async def _dead_letters(settings: Settings) -> dict[str, Any] | None:
    """Count the open dead letters; None where Kafka can't be asked."""
    try:
        count, newest = await open_letters(settings)
    except JobtrailError:
        return None
    return {"open": count, "newestAt": newest.isoformat() if newest else None}


def _verified(settings: Settings) -> dict[str, Any] | None:
    """Return at which position the store was last found equal to the log; None where never."""
    found = read_verified(settings.store_folder)
    if found is None:
        return None
    at = datetime.fromtimestamp(found.at, UTC).isoformat().replace("+00:00", "Z")
    return {"position": found.position, "at": at, "sample": found.sample}


def _ago(instant: str) -> str:
    age = datetime.now(UTC) - datetime.fromisoformat(instant)
    return f"{duration(max(age.total_seconds(), 0))} ago"


def _say_verified(found: dict[str, Any]) -> str:
    sample = "" if found["sample"] == 1 else f" (one job in {found['sample']})"
    return f"verified{sample}: {found['position']}, {_ago(found['at'])}"


def _say_dead_letters(found: dict[str, Any]) -> str:
    if not found["open"]:
        return "dead letters: none"
    ago = _ago(found["newestAt"])
    return f"dead letters: {found['open']:,} (newest {ago}; `jobtrail dead list`)"


def _partitions(health: dict[str, Any]) -> list[dict[str, int]]:
    """Return the lag of each partition: the log's end in the tail less the projections' position.

    With each, the position up to which the log was last proven to be the one that was folded.
    """
    ends = _position(health, "tail")
    projected = _position(health, "projections")
    proven = _position(health, "projections", "proven")
    return [
        {
            "partition": partition,
            "end": end,
            "projected": projected.get(partition, 0),
            "proven": proven.get(partition, 0),
            "lag": max(end - projected.get(partition, 0), 0),
        }
        for partition, end in sorted(ends.items())
    ]


def _progress(health: dict[str, Any]) -> str:
    """Return the projectors' last heartbeat and progress as text."""
    part = health.get("projections") or {}
    silent, still = part.get("silentSeconds"), part.get("stillSeconds")
    if silent is None:
        return "projectors: no heartbeat yet"
    moves = f"a partition made no progress for {duration(still)}" if still else "all make progress"
    return f"projectors: heard {duration(silent)} ago, {moves}"


def _position(health: dict[str, Any], of: str, name: str = "position") -> dict[int, int]:
    part = health.get(of)
    text = part.get(name) if isinstance(part, dict) else None
    return parse_position(text) if text else {}


def _jobs(summary: dict[str, Any] | None) -> dict[str, int] | None:
    if summary is None:
        return None
    totals: dict[str, int] = {}
    for row in summary["jobType"]:
        for name, count in row.items():
            if name != "jobType":
                totals[name] = totals.get(name, 0) + count
    return totals


def _show(found: dict[str, Any]) -> None:
    screen = Screen(wrap=True)
    screen.say(f"{found['url'] or 'starting'}: {'ready' if found['ready'] else 'not ready'}")
    for reason in found["reasons"]:
        screen.say(f"wrong: {reason}", "bold")
    if "pid" in found:
        screen.say(f"process {found['pid']}, Kafka {found['bootstrapServers']}")
        if found["clientProperties"]:
            screen.say(f"clients of others take {found['clientProperties']}")
    if found["jobs"] is not None:
        jobs = ", ".join(f"{count:,} {name}" for name, count in found["jobs"].items())
        screen.say(f"jobs: {jobs or 'none'}")
    screen.say(_progress(found["health"]))
    if found.get("deadLetters"):
        screen.say(_say_dead_letters(found["deadLetters"]))
    if found.get("verified"):
        screen.say(_say_verified(found["verified"]))
    if found["partitions"]:
        grid = Grid("partition", "log end", "projected", "proven", "lag (events)")
        for row in found["partitions"]:
            grid.add(
                str(row["partition"]),
                *(f"{row[name]:,}" for name in ("end", "projected", "proven", "lag")),
            )
        screen.show(grid)
    if found.get("processes"):
        grid = Grid("process", "state", "since", "restarts", "last end")
        for row in found["processes"]:
            last = row["lastEnd"]
            ended = f"{last['at']} {last['reason']}" if last else ""
            grid.add(row["name"], row["state"], row["since"], str(row["restarts"]), ended)
        screen.show(grid)
    screen.say(f"jobtrail {found['versions']['jobtrail']}")
