"""`jobtrail explain`: a job's timeline in words, and where its time went as a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jobtrail.cli.ask import asking, client, tabular
from jobtrail.job import Verdict
from jobtrail.replay.durations import duration
from jobtrail.replay.explain import Explanation, Line, Stay
from jobtrail.replay.explain import explain as explained

#: The most stays that are drawn, half of them from the beginning.
_MOST_STAYS: Final = 16
_NARROWEST: Final = 12
_COLOURS: Final = {"waiting": "cyan", "running": "blue", "in retry": "yellow", "ended": "white"}


@click.command()
@click.argument("job_id", metavar="JOB")
@asking
def explain(
    job_id: str, as_json: bool, token: str | None, url: str | None, data_dir: Path | None
) -> None:
    """Tell what happened to a job, why, and where its time went."""
    with client(url, token, data_dir) as asked:
        history = list(asked.history(job_id))
        job = asked.job(job_id)
    found = explained(job, history, datetime.now(UTC))
    if tabular(as_json):
        show(found, Console())
    else:
        click.echo(msgspec.json.encode(found))


def show(found: Explanation, console: Console) -> None:
    """Print an explanation for people.

    Args:
        found: What is to be said.
        console: Where to.
    """
    whose = " of ".join(escape(part) for part in (found.job_type, found.owner) if part)
    heading = f"[bold]{escape(found.id)}[/]  {whose}"
    console.print(f"{heading}  [bold]{found.state}[/], attempt {found.attempt}")
    console.print(_events(found.events))
    if found.stays:
        console.print("[bold]Where the time went[/]\n")
        for row in _chart(found, console.width):
            console.print(row, no_wrap=True, overflow="ellipsis", crop=True)
        if len(found.parts) < len(found.stays):
            console.print(_parts(found))


def _events(lines: Sequence[Line]) -> Table:
    days = {f"{line.time.astimezone(UTC):%Y-%m-%d}" for line in lines}
    # The day stands once where it is always the same: terminals are narrow.
    day = days.pop() if len(days) == 1 else ""
    names = ("place", day or "time", "event", "attempt", "verdict", "state", "what and why")
    table = Table(*names, box=SIMPLE)
    table.columns[3].justify = "right"
    for column in table.columns[:6]:
        column.no_wrap = True
    for line in lines:
        table.add_row(
            line.place,
            _instant(line.time).removeprefix(f"{day} "),
            Text(line.type.removeprefix("job.")),
            "?" if line.attempt is None else str(line.attempt),
            str(line.verdict),
            str(line.state),
            Text(line.why),
            style=None if line.verdict is Verdict.APPLIED else "dim",
        )
    return table


def _chart(found: Explanation, width: int) -> Iterator[Text]:
    """Draw each stay as a bar on the axis of the job's whole time."""
    begin = found.stays[0].begin
    span = max(found.total, 1e-6)
    names = [_name(stay) for stay in found.stays]
    room = max(len("total, so far"), *map(len, names))
    bar = max(width - room - 24, _NARROWEST)
    gone = 0.0
    for at, (stay, name) in enumerate(zip(found.stays, names, strict=True)):
        left, gone = gone, gone + stay.seconds
        hidden = len(found.stays) - _MOST_STAYS
        if hidden > 0 and _MOST_STAYS // 2 <= at < _MOST_STAYS // 2 + hidden:
            if at == _MOST_STAYS // 2:
                yield Text(f"  {'':{room}}  … {hidden} more", style="dim")
            continue
        first = min(round(left / span * bar), bar - 1)
        last = max(round(gone / span * bar), first + 1)
        row = Text(f"  {name:{room}}  ")
        row.append(" " * first + "█" * (last - first), style=_COLOURS[stay.phase])
        row.append(" " * (bar - last))
        row.append(f"{duration(stay.seconds):>11}{stay.seconds / span:>7.1%}")
        yield row
    end = "now" if found.stays[-1].end is None else _instant(found.stays[-1].end)
    axis = f"{_instant(begin)} {'─' * max(bar - len(end) - 21, 1)} {end}"
    yield Text(f"  {'':{room}}  {axis}", style="dim")
    words = "total, so far" if found.stays[-1].end is None else "total"
    yield Text(f"  {words:{room}}  {'':{bar}}{duration(found.total):>11}", style="bold")


def _name(stay: Stay) -> str:
    if stay.phase == "running":
        return "running" if stay.attempt is None else f"running, attempt {stay.attempt}"
    return stay.phase


def _parts(found: Explanation) -> Table:
    table = Table("", "time", "share", box=SIMPLE, show_header=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for part in found.parts:
        table.add_row(part.name, duration(part.seconds), f"{part.share:.1%}")
    return table


def _instant(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
