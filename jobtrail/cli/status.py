"""`jobtrail status`: what runs, how far it is, what it holds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from jobtrail.cli.common import chosen_data_dir, data_dir_option, url_option
from jobtrail.errors import NotRunning
from jobtrail.local import read_running
from jobtrail.position import parse_position
from jobtrail.settings import load
from jobtrail.tokens import local_secret, make_token
from jobtrail.version import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@url_option
@data_dir_option
def status(as_json: bool, url: str | None, data_dir: Path | None) -> None:
    """Show what runs, the lag of each partition, how many jobs are known, and versions.

    The exit status is 1 where nothing runs or it is not ready.
    """
    settings = load(data_dir=chosen_data_dir(data_dir))
    running = None if url else read_running(settings.data_dir)
    url = url or (running.url if running else "")
    token = make_token(local_secret(settings.data_dir), "jobtrail-status", (), ("jobs:read:all",))
    found = asyncio.run(_ask(url, token))
    found["versions"] = {"jobtrail": __version__}
    if running is not None:
        found["pid"] = running.pid
        found["bootstrapServers"] = running.bootstrap_servers
    if as_json:
        click.echo(orjson.dumps(found))
    else:
        _show(found)
    if not found["ready"]:
        raise SystemExit(1)


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
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotRunning("The service does not answer.", where=url, found=repr(error)) from None
    return {
        "url": url,
        "ready": ready,
        "health": health,
        "partitions": _partitions(health),
        "jobs": _jobs(summary),
    }


def _partitions(health: dict[str, Any]) -> list[dict[str, int]]:
    """The lag of each partition: the end that the tail saw, less what the projections hold."""
    ends = _position(health, "tail")
    projected = _position(health, "projections")
    return [
        {
            "partition": partition,
            "end": end,
            "projected": projected.get(partition, 0),
            "lag": max(end - projected.get(partition, 0), 0),
        }
        for partition, end in sorted(ends.items())
    ]


def _position(health: dict[str, Any], of: str) -> dict[int, int]:
    text = health.get(of, {}).get("position")
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
    console = Console(soft_wrap=True)
    console.print(f"{found['url']}: {'ready' if found['ready'] else 'not ready'}")
    if "pid" in found:
        console.print(f"process {found['pid']}, Kafka {found['bootstrapServers']}")
    if found["jobs"] is not None:
        jobs = ", ".join(f"{count:,} {name}" for name, count in found["jobs"].items())
        console.print(f"jobs: {jobs or 'none'}")
    if found["partitions"]:
        table = Table("partition", "log end", "projected", "lag (events)", box=SIMPLE)
        for row in found["partitions"]:
            table.add_row(
                str(row["partition"]), f"{row['end']:,}", f"{row['projected']:,}", f"{row['lag']:,}"
            )
        console.print(table)
    console.print(f"jobtrail {found['versions']['jobtrail']}")
