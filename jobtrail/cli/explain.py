"""`jobtrail explain`: what became of a job, in words and as a chart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobtrail.cli.ask import asking, client, tabular
from jobtrail.client import Job
from jobtrail.durations import duration
from jobtrail.explain import Span, Story, tell
from jobtrail.job import Verdict
from jobtrail.states import ENDED, State

#: Columns of the chart.
_WIDTH: Final = 40
_SPENT: Final = {
    State.CREATED: "waiting",
    State.ACTIVE: "running",
    State.RETRY: "waiting for another attempt",
}
_COLOURS: Final = {State.CREATED: "yellow", State.ACTIVE: "blue", State.RETRY: "magenta"}


@click.command()
@click.argument("job_id", metavar="JOB")
@asking
def explain(
    job_id: str, as_json: bool, token: str | None, url: str | None, data_dir: Path | None
) -> None:
    """Tell what became of JOB: its events, why some did not count, and where time went."""
    now = datetime.now(UTC)
    with client(url, token, data_dir) as asked:
        job = asked.job(job_id)
        story = tell(asked.history(job_id), now)
    if tabular(as_json):
        _show(job, story)
    else:
        click.echo(msgspec.json.encode(_plain(job, story)))


def _plain(job: Job, story: Story) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "events": [
            {
                "time": told.time,
                "type": told.type,
                "partition": told.partition,
                "offset": told.offset,
                "verdict": told.verdict,
                "state": told.state,
                "attempt": told.attempt,
                "words": told.words,
            }
            for told in story.events
        ],
        "spans": [
            {
                "state": span.state,
                "attempt": span.attempt,
                "began": span.began,
                "ended": span.ended,
                "seconds": span.seconds,
            }
            for span in story.spans
        ],
        "seconds": story.by_state(),
    }


def _show(job: Job, story: Story) -> None:
    console = Console()
    owner = f" of {job.owner}" if job.owner else ""
    console.print(Text(f"{job.id}: {job.job_type or 'a job of unknown type'}{owner}, {job.state}"))
    table = Table("time (UTC)", "after", "place", "state", "what happened", box=SIMPLE)
    for told in story.events:
        after = (told.time - story.events[0].time).total_seconds()
        style = "" if told.verdict is Verdict.APPLIED else "dim"
        table.add_row(
            told.time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds")[:-6],
            f"{'' if after < 0 else '+'}{duration(after)}",
            f"{told.partition}:{told.offset}",
            told.state,
            Text(told.words),
            style=style,
        )
    console.print(table)
    _show_time(console, story)


def _show_time(console: Console, story: Story) -> None:
    spans = [span for span in story.spans if span.ended is not None or span.state not in ENDED]
    total = sum(span.seconds for span in spans)
    if not spans:
        return
    table = Table("where time went", "", "", "", box=SIMPLE)
    table.columns[2].justify = table.columns[3].justify = "right"
    before = 0.0
    for span in spans:
        share = span.seconds / total if total else 0.0
        begin = round(before / total * _WIDTH) if total else 0
        length = max(1, round(share * _WIDTH))
        bar = Text(" " * min(begin, _WIDTH - 1) + "█" * length, _COLOURS.get(span.state, "dim"))
        before += span.seconds
        table.add_row(_name(span), bar, duration(span.seconds), f"{share:.1%}")
    table.add_section()
    table.add_row("in all", "", duration(total), "")
    console.print(table)


def _name(span: Span) -> str:
    name = _SPENT.get(span.state, span.state.value)
    if span.state is State.ACTIVE and span.attempt is not None:
        name = f"{name}, attempt {span.attempt}"
    return name if span.ended is not None else f"{name}, still"
