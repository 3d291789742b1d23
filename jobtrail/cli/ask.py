"""`jobtrail search|summary|get|wait`: the client on the command line.

A table on a terminal, JSON in a pipe or with `--json`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import msgspec

from jobtrail.cli.common import (
    ROWS,
    chosen_data_dir,
    data_dir_option,
    tabular,
    tags_of,
    url_option,
)
from jobtrail.cli.proof import token_options, whom_to_ask
from jobtrail.client import ApiError, Job, Status, SyncClient, TypeCount
from jobtrail.core.states import ENDED, STATES
from jobtrail.settings import load
from jobtrail.terminal.tables import Grid, Screen
from jobtrail.terminal.text import out_json

_F = TypeVar("_F", bound=Callable[..., Any])


def asking(command: _F) -> _F:
    """Add the options of commands that query a service, and of their output."""
    options = (
        click.option("--json", "as_json", is_flag=True, help="JSON, also on a terminal."),
        token_options,
        url_option,
        data_dir_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def ranging(command: _F) -> _F:
    """Add the filters that counting and searching share."""
    options = (
        click.option("--job-type", "job_types", multiple=True, help="Only this type; repeatable."),
        click.option("--start", help="Only jobs created then or later: ISO 8601, date or instant."),
        click.option("--end", help="Only jobs created then or earlier."),
    )
    for option in reversed(options):
        command = option(command)
    return command


as_of_option = click.option(
    "--as-of",
    metavar="INSTANT|POSITION",
    help="What was true then: ISO 8601 (a date is its last instant), or a position of the log.",
)


def client(
    url: str | None, token: str | None, token_file: Path | None, data_dir: Path | None
) -> SyncClient:
    """Return a client of the named or the local service."""
    settings = load(data_dir=chosen_data_dir(data_dir))
    return SyncClient(*whom_to_ask(settings, url, token, token_file, "jobtrail-cli"))


@click.command()
@ranging
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in STATES]),
    help="Only jobs in this state; repeatable.",
)
@click.option("--owner", help="Only jobs of this owner.")
@click.option("--bulk-id", help="Only jobs of this bulk.")
@click.option("--tag", "tags", multiple=True, metavar="KEY:VALUE", help="Only with this tag.")
@as_of_option
@click.option("--limit", type=click.IntRange(1), help="How many; on a terminal 50, else all.")
@asking
def search(
    job_types: tuple[str, ...],
    start: str | None,
    end: str | None,
    states: tuple[str, ...],
    owner: str | None,
    bulk_id: str | None,
    tags: tuple[str, ...],
    as_of: str | None,
    limit: int | None,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """List jobs, newest first: as a table, or one JSON object a line."""
    chosen = tags_of(tags)
    shown = tabular(as_json)
    most = limit or (ROWS if shown else None)
    with client(url, token, token_file, data_dir) as asked:
        jobs = asked.search(
            job_types=job_types,
            states=states,
            start=start,
            end=end,
            owner=owner,
            bulk_id=bulk_id,
            tags=chosen,
            as_of=as_of,
            page_size=min(most or 500, 500),
        )
        found = islice(jobs, most)
        if shown:
            _print_jobs(found)
        else:
            for job in found:
                out_json(msgspec.json.encode(job))


@click.command()
@ranging
@as_of_option
@asking
def summary(
    job_types: tuple[str, ...],
    start: str | None,
    end: str | None,
    as_of: str | None,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Count jobs by type and state."""
    with client(url, token, token_file, data_dir) as asked:
        counts = asked.summary(job_types=job_types, start=start, end=end, as_of=as_of)
    if not tabular(as_json):
        out_json(msgspec.json.encode(counts))
        return
    grid = Grid("type", "total", *STATES, right=True)
    for count in [*counts, _total(counts)]:
        numbers = [count.total, *(getattr(count, state) for state in STATES)]
        grid.add(count.job_type or "?", *(f"{number:,}" for number in numbers))
    Screen().show(grid)


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@as_of_option
@asking
def get(
    job_ids: tuple[str, ...],
    as_of: str | None,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Show the states of jobs; the exit status is 1 where one is unknown."""
    with client(url, token, token_file, data_dir) as asked:
        if as_of is None:
            found = asked.statuses(job_ids, include_unknown=True)
        else:
            found = {job_id: _status_then(asked, job_id, as_of) for job_id in job_ids}
    _print_statuses(found, as_json)
    if any(status.state is None for status in found.values()):
        sys.exit(1)


@click.command()
@click.argument("job_ids", nargs=-1, required=True)
@click.option("--any", "until_any", is_flag=True, help="Return when the first of them has ended.")
@click.option("--within", type=click.FloatRange(0), help="Timeout in seconds. Default: none.")
@asking
def wait(
    job_ids: tuple[str, ...],
    until_any: bool,
    within: float | None,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Wait until jobs have ended; the exit status is 1 after a timeout.

    A job that is unknown, or that you may not see, is waited for like any other.
    """
    until: Literal["all", "any"] = "any" if until_any else "all"
    with client(url, token, token_file, data_dir) as asked:
        found = asked.wait(job_ids, until=until, within=within)
    _print_statuses(found, as_json)
    ended = [job_id in found and found[job_id].state in ENDED for job_id in job_ids]
    if not (any(ended) if until_any else all(ended)):
        sys.exit(1)


def _status_then(asked: SyncClient, job_id: str, as_of: str) -> Status:
    try:
        job = asked.job(job_id, as_of=as_of)
    except ApiError as error:
        if error.status != 404:
            raise
        return Status(job_id, None, None)
    return Status(job_id, job.state, job.output)


def _total(counts: list[TypeCount]) -> TypeCount:
    return TypeCount(
        "all",
        sum(count.total for count in counts),
        **{str(state): sum(getattr(count, state) for count in counts) for state in STATES},
    )


def _print_jobs(jobs: Iterable[Job]) -> None:
    grid = Grid("id", "type", "state", "owner", "created", "ended", "attempt")
    for job in jobs:
        grid.add(
            job.id,
            job.job_type or "?",
            job.state,
            job.owner or "?",
            job.created_at.isoformat(sep=" ", timespec="seconds"),
            job.ended_at.isoformat(sep=" ", timespec="seconds") if job.ended_at else "",
            str(job.attempt),
        )
    Screen().show(grid)


def _print_statuses(found: dict[str, Status], as_json: bool) -> None:
    if not tabular(as_json):
        out_json(msgspec.json.encode(found))
        return
    grid = Grid("id", "state", "output")
    for status in found.values():
        output = "" if status.output is None else msgspec.json.encode(status.output).decode()
        grid.add(status.id, status.state or "unknown", output)
    Screen().show(grid)
