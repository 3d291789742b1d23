"""`jobtrail explain`: what happened to a job, in words and as a chart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from jobtrail.cli.ask import asking, client
from jobtrail.cli.common import tabular
from jobtrail.client import Job
from jobtrail.client.explain import Explanation, StateSpan, explain_history
from jobtrail.core.durations import duration
from jobtrail.core.states import ENDED, State
from jobtrail.core.trail import Verdict
from jobtrail.terminal.tables import Grid, Screen, Styled
from jobtrail.terminal.text import out_json

#: Columns of the terminal beside the chart: names, figures and separators.
_BESIDE: Final = 34
_NARROWEST: Final = 12
#: The most spans that are drawn, half of them from the beginning.
_MOST_SPANS: Final = 16
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
    job_id: str,
    as_json: bool,
    token: str | None,
    token_file: Path | None,
    url: str | None,
    data_dir: Path | None,
) -> None:
    """Show what happened to JOB: its events, why some did not count, and where time went."""
    now = datetime.now(UTC)
    with client(url, token, token_file, data_dir) as asked:
        job = asked.job(job_id)
        explanation = explain_history(asked.history(job_id), now)
    if tabular(as_json):
        show(job, explanation, Screen())
    else:
        out_json(msgspec.json.encode(_plain(job, explanation)))


def _plain(job: Job, explanation: Explanation) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "events": [event._asdict() for event in explanation.events],
        "spans": [span._asdict() for span in explanation.spans],
        "seconds": explanation.by_state(),
    }


def show(job: Job, explanation: Explanation, screen: Screen) -> None:
    """Print an explanation for people.

    Args:
        job: The job from the service.
        explanation: Of its history.
        screen: Where to print.
    """
    owner = f" of {job.owner}" if job.owner else ""
    screen.say(f"{job.id}: {job.job_type or 'a job of unknown type'}{owner}, {job.state}")
    grid = Grid("time (UTC)", "after", "place", "state", "what happened")
    for event in explanation.events:
        after = (event.time - explanation.events[0].time).total_seconds()
        style = "" if event.verdict is Verdict.APPLIED else "dim"
        grid.add(
            event.time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds")[:-6],
            f"{'+' if after >= 0 else ''}{duration(after)}",
            f"{event.partition}:{event.offset}",
            event.state,
            event.words,
            style=style,
        )
    screen.show(grid)
    spans = [
        span for span in explanation.spans if span.ended is not None or span.state not in ENDED
    ]
    if spans:
        screen.show(_where_time_went(spans, screen.width))


def _where_time_went(spans: list[StateSpan], width: int) -> Grid:
    """Draw each span as a bar on the axis of the job's whole time."""
    total = sum(span.seconds for span in spans)
    names = [_name(span) for span in spans]
    room = max(width - max(map(len, names)) - _BESIDE, _NARROWEST)
    grid = Grid("where time went", "", "", "", no_wrap=True)
    grid.align_right(2, 3)
    hidden = range(_MOST_SPANS // 2, len(spans) - _MOST_SPANS // 2)
    gone = 0.0
    for number, (span, name) in enumerate(zip(spans, names, strict=True)):
        share = span.seconds / total if total else 0.0
        begin = min(round(gone * room), room - 1)
        gone += share
        if number in hidden:
            if number == hidden[0]:
                grid.add(f"... {len(hidden)} more", style="dim")
            continue
        length = max(1, round(gone * room) - begin)
        bar = Styled(" " * begin + "█" * length, _COLOURS.get(span.state, "dim"))
        grid.add(name, bar, duration(span.seconds), f"{share:.1%}")
    grid.add_section()
    grid.add("in all", "", duration(total), "")
    return grid


def _name(span: StateSpan) -> str:
    name = _SPENT.get(span.state, span.state.value)
    if span.state is State.ACTIVE and span.attempt is not None:
        name = f"{name}, attempt {span.attempt}"
    return name if span.ended is not None else f"{name}, still"
