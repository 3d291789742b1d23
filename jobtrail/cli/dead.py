"""`jobtrail dead`: records of the log that are no valid event: list, show, retry, drop."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import orjson

from jobtrail.cli.common import ROWS, log_options, log_settings, tabular
from jobtrail.core.errors import JobtrailError, UsageError
from jobtrail.log.dead_letters import (
    DeadLetter,
    LetterFilter,
    OriginalRecord,
    checked_place,
    records_of,
)
from jobtrail.log.dead_topic import DeadTopic, Outcome
from jobtrail.terminal.tables import Grid, Screen
from jobtrail.terminal.text import err, out, out_json

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_AGO: Final = re.compile(r"([0-9]+) ?(s|min|h|d)")
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
#: The most characters of a value that are shown on a terminal.
_SHOWN: Final = 4_096


class NoSuchLetter(JobtrailError):
    """No dead letter has this place."""


@click.group()
def dead() -> None:
    """List records of the log that are no valid event, write them back, or drop them."""


def _filters(command: _F) -> _F:
    """Add the options that select letters."""
    for option in reversed(
        (
            click.option("--reason", "reasons", multiple=True, help="Only this one; repeatable."),
            click.option(
                "--partition", "partitions", multiple=True, type=click.IntRange(0),
                help="Only of this partition of the log; repeatable.",
            ),
            click.option("--job", "jobs", multiple=True, help="Only of this key; repeatable."),
            click.option(
                "--since", metavar="WHEN",
                help="Only those refused since: an instant, or how long ago, as 2h or 7d.",
            ),
            click.option("--until", metavar="WHEN", help="Only those refused until then."),
            click.option("--limit", type=click.IntRange(1), help="At most N, oldest first."),
            click.option("--json", "as_json", is_flag=True, help="Print it as JSON."),
        )
    ):  # fmt: skip
        command = option(command)
    return log_options(command)


def _wanted(given: dict[str, Any], places: Iterable[str] = ()) -> LetterFilter:
    return LetterFilter(
        places=frozenset(map(checked_place, places)),
        reasons=frozenset(given["reasons"]),
        partitions=frozenset(given["partitions"]),
        jobs=frozenset(given["jobs"]),
        since=_instant(given["since"], "--since"),
        until=_instant(given["until"], "--until"),
    )


def _instant(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    if found := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            "This is no instant.",
            where=option,
            expected="2026-11-23T13:00:00Z, or how long ago: 90s, 30min, 2h, 7d",
            found=repr(text),
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _on(given: dict[str, Any], work: Callable[[DeadTopic], Awaitable[_T]]) -> _T:
    """Run work on the dead-letter topic of the options."""
    settings = log_settings(given["data_dir"], given["bootstrap_servers"])

    async def run() -> _T:
        async with DeadTopic(settings) as topic:
            return await work(topic)

    return asyncio.run(run())


@dead.command("list")
@click.option("--all", "done", is_flag=True, help="Also those that were retried or dropped.")
@_filters
def list_(done: bool, **given: Any) -> None:
    """List dead letters, the oldest first."""
    wanted, as_json = _wanted(given), given["as_json"]
    letters = _on(given, lambda topic: topic.letters(wanted, done=done))
    limit = given["limit"] or (ROWS if tabular(as_json) else None)
    rows = [_row(letter) for letter in letters[:limit]]
    if not tabular(as_json):
        out_json(orjson.dumps(rows))
        return
    columns = ("place", "found (UTC)", "reason", "job", "records", "bytes", "retries", "done")
    grid = Grid(*columns)
    for letter in letters[:limit]:
        found = letter.at.isoformat(sep=" ", timespec="seconds")[:-6]
        grid.add(
            letter.place, found, letter.reason, letter.job, f"{letter.records:,}",
            f"{letter.size:,}", str(letter.retries or ""), letter.done,
        )  # fmt: skip
    screen = Screen(wrap=True)
    screen.show(grid)
    screen.say(f"{len(rows):,} of {len(letters):,}")


@dead.command()
@click.argument("place", metavar="PLACE")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@log_options
def show(place: str, as_json: bool, data_dir: Path | None, bootstrap_servers: str | None) -> None:
    """Show the letter of PLACE, topic/partition/offset, with its record's bytes.

    Of a letter with many records, the first one.
    """
    given = {"data_dir": data_dir, "bootstrap_servers": bootstrap_servers}
    wanted = LetterFilter(places=frozenset([checked_place(place)]))

    async def find(topic: DeadTopic) -> list[dict[str, Any]]:
        letters = await topic.letters(wanted, done=True)
        return [
            {
                **_row(letter),
                "key": _text(original.key),
                "headers": [[name, _text(content)] for name, content in original.headers],
                "value": _text(original.value),
            }
            async for letter, original in _firsts(topic, letters)
        ]

    found = _on(given, find)
    if not found:
        raise NoSuchLetter("There is no letter with this place.", where=place)
    if not tabular(as_json):
        out_json(orjson.dumps(found[-1]))
        return
    for name, value in found[-1].items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        out(f"{name}: {text[:_SHOWN]}{' ...' if len(text) > _SHOWN else ''}")


@dead.command()
@click.argument("places", metavar="[PLACE]...", nargs=-1)
@click.option("--everything", is_flag=True, help="All letters.")
@click.option(
    "--again", is_flag=True,
    help="Also those that were written back before and came again, or would be refused again.",
)  # fmt: skip
@click.option("--dry-run", "dry", is_flag=True, help="Only print what would be done.")
@_filters
def retry(places: tuple[str, ...], everything: bool, again: bool, dry: bool, **given: Any) -> None:
    """Write letters back to the log as they were, each to its key's partition.

    The exit status is 1 where one was left.
    """
    wanted = _meant(given, places, everything=everything)

    async def work(topic: DeadTopic) -> list[Outcome]:
        letters = (await topic.letters(wanted, done=bool(places)))[: given["limit"]]
        return await topic.retry(letters, again=again, dry=dry)

    _report(_on(given, work), places, as_json=given["as_json"], dry=dry)


@dead.command()
@click.argument("places", metavar="[PLACE]...", nargs=-1)
@click.option("--everything", is_flag=True, help="All letters.")
@click.option("--dry-run", "dry", is_flag=True, help="Only print what would be done.")
@_filters
def drop(places: tuple[str, ...], everything: bool, dry: bool, **given: Any) -> None:
    """Mark letters as dropped: they are kept, and `list --all` shows them."""
    wanted = _meant(given, places, everything=everything)

    async def work(topic: DeadTopic) -> list[Outcome]:
        letters = (await topic.letters(wanted, done=bool(places)))[: given["limit"]]
        return await topic.drop(letters, dry=dry)

    _report(_on(given, work), places, as_json=given["as_json"], dry=dry)


def _meant(given: dict[str, Any], places: tuple[str, ...], *, everything: bool) -> LetterFilter:
    wanted = _wanted(given, places)
    if everything == (wanted != LetterFilter()):
        raise UsageError(
            "Select letters.",
            expected="places or filters, or --everything alone",
            found="both" if everything else "none",
        )
    return wanted


def _report(outcomes: list[Outcome], places: Iterable[str], *, as_json: bool, dry: bool) -> None:
    found = {outcome.letter.place for outcome in outcomes}
    missing = [place for place in places if place not in found]
    left = sum(outcome.what == "left" for outcome in outcomes)
    if as_json:
        rows = [
            {"place": o.letter.place, "reason": o.letter.reason, "outcome": o.what, "note": o.note}
            for o in outcomes
        ]
        out_json(orjson.dumps({"dryRun": dry, "letters": rows, "missing": missing}))
    else:
        for o in outcomes:
            would = "would be " if dry and o.what != "left" else ""
            out(f"{o.letter.place}: {would}{o.what}{', ' if o.note else ''}{o.note}")
        err(f"{len(outcomes) - left:,} done, {left:,} left")
    for place in missing:
        err(f"{place}: no such letter")
    if left or missing:
        sys.exit(1)


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "place": letter.place,
        "at": letter.at.isoformat().replace("+00:00", "Z"),
        "reason": letter.reason,
        "detail": letter.detail,
        "job": letter.job,
        "records": letter.records,
        "last": letter.last,
        "bytes": letter.size,
        "retries": letter.retries,
        "cut": letter.cut,
        "done": letter.done or None,
    }


async def _firsts(
    topic: DeadTopic, letters: Sequence[DeadLetter]
) -> AsyncIterator[tuple[DeadLetter, OriginalRecord]]:
    """Yield each letter with its first record."""
    async for letter, original in topic.originals(letters):
        yield letter, next(iter(records_of(letter, original)), original)


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="backslashreplace")
