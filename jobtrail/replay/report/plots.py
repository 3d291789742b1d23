"""The plots of a report, each drawn from its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from jobtrail.core.durations import duration
from jobtrail.core.states import STATES, State
from jobtrail.replay.report.figure import ENDS, Figure
from jobtrail.replay.report.ridges import ridges
from jobtrail.replay.report.style import (
    FIRST,
    PAPER,
    SECOND,
    SOFT,
    STATE_COLOURS,
    WIDTH,
    canvas,
    count_axis,
    dates,
    legend,
    nothing,
    short,
    time_axis,
)

Figures = Mapping[str, Figure]

_QUIET: Final = "No job changed its state in this range."
_OPEN: Final = (State.ACTIVE, State.CREATED, State.RETRY)


def arrivals(figures: Figures) -> Canvas:
    """Draw how many jobs arrived and ended per step of time."""
    figure = figures["arrivals"]
    if not figure.rows:
        return nothing(_QUIET)
    drawing, (above, below) = canvas(4.4, (1, 1))
    begins = figure.numbers("begin")
    edges = dates([*begins, 2 * begins[-1] - begins[-2] if len(begins) > 1 else begins[-1] + 1e6])
    above.stairs(figure.numbers("arrived"), edges, fill=True, color=FIRST)
    above.set_title("Jobs that arrived")
    base = np.zeros(len(begins))
    for end in ENDS:
        top = base + figure.numbers(str(end))
        colour = STATE_COLOURS[end]
        below.stairs(top, edges, baseline=base, fill=True, color=colour, label=str(end))
        base = top
    below.set_title("Jobs that ended")
    legend(below, 4)
    step = f"jobs in {duration((begins[1] - begins[0]) / 1e6)}" if len(begins) > 1 else "jobs"
    for axes in (above, below):
        count_axis(axes, step)
        axes.margins(x=0)
    time_axis(below)
    above.grid(axis="x", visible=False)
    return drawing


def flow(figures: Figures) -> Canvas:
    """Draw how many jobs were in each state as time went on: all of them, and the open ones."""
    figure = figures["flow"]
    if not figure.rows:
        return nothing(_QUIET)
    drawing, (above, below) = canvas(5.6, (3, 2))
    at = dates(figure.numbers("at"))
    order = [*ENDS, *_OPEN]
    for axes, states in ((above, order), (below, _OPEN)):
        axes.stackplot(
            at,
            [figure.numbers(str(state)) for state in states],
            labels=[str(state) for state in states],
            colors=[STATE_COLOURS[state] for state in states],
            edgecolor=PAPER,
            linewidth=0.4,
        )
        count_axis(axes, "jobs")
        axes.margins(x=0)
    above.set_title("All jobs, by state")
    below.set_title("Those that have not ended")
    legend(above, len(STATES))
    time_axis(below)
    above.grid(axis="x", visible=False)
    return drawing


def rates(figures: Figures) -> Canvas:
    """Draw failure and retry rates per step of time, and their trend."""
    figure = figures["rates"]
    if not figure.rows:
        return nothing(_QUIET)
    drawing, (above, below) = canvas(4.8, (1, 1))
    at = dates(figure.numbers("begin"))
    kinds = (
        (above, "failure", "ended", "Failure rate: ends that failed, of all ends", SECOND),
        (below, "retry", "runs", "Retry rate: runs that ended for a retry, of all runs", FIRST),
    )
    for axes, name, of, title, colour in kinds:
        counts = np.array(figure.numbers(of))
        sizes = 6 + 60 * np.sqrt(counts / max(counts.max(), 1))
        shares = figure.numbers(f"{name}_rate")
        axes.scatter(at, shares, s=sizes, color=colour, alpha=0.3, linewidths=0)
        axes.plot(at, figure.numbers(f"{name}_trend"), color=colour, linewidth=2)
        axes.set_title(title)
        _share_axis(axes, [share for share in shares if share == share])
    time_axis(below)
    above.grid(axis="x", visible=False)
    return drawing


def _share_axis(axes: Axes, shares: list[float]) -> None:
    # Single steps with few jobs may reach 100 %: they must not press the rest flat.
    usual = float(np.quantile(shares, 0.98)) if shares else 0.0
    top = min(max(usual * 1.25, 0.001), 1.02)
    axes.set_ylim(-top * 0.03, top)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    hidden = sum(share > top for share in shares)
    if hidden:
        words = f"{hidden} step{'s' * (hidden > 1)} above"
        axes.text(0.995, 0.97, words, transform=axes.transAxes, ha="right", va="top", color=SOFT)


def types(figures: Figures) -> Canvas:
    """Draw which share of each type's jobs is in which state."""
    figure = figures["types"]
    if not figure.rows:
        return nothing("There are no jobs.")
    drawing, axes = _bars(len(figure.rows))
    names = [short(name) for name in figure.column("job_type")]
    jobs = np.array(figure.numbers("jobs"))
    left = np.zeros(len(names))
    places = np.arange(len(names))
    for state in (*ENDS, *_OPEN):
        width = np.array(figure.numbers(str(state))) / np.maximum(jobs, 1)
        axes.barh(places, width, left=left, color=STATE_COLOURS[state], label=str(state))
        left += width
    for place, count in enumerate(jobs):
        axes.text(1.01, place, f"{count:,.0f}", va="center")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("share of the type's jobs; at the right, how many")
    _name_rows(axes, names)
    legend(axes, len(STATES))
    return drawing


def slowest(figures: Figures) -> Canvas:
    """Draw where the time of the slowest jobs went."""
    figure = figures["slowest"]
    if not figure.rows:
        return nothing("No job ended in this range.")
    drawing, axes = _bars(len(figure.rows))
    ids, job_types = figure.column("id"), figure.column("job_type")
    names = [f"{short(i)}  {short(t)}" for i, t in zip(ids, job_types, strict=True)]
    phases = {
        "waiting": ("waiting", STATE_COLOURS[State.CREATED]),
        "running": ("running", STATE_COLOURS[State.ACTIVE]),
        "in_retry": ("in retry", STATE_COLOURS[State.RETRY]),
        "ended_between": ("ended, then taken up again", STATE_COLOURS[State.EXPIRED]),
    }
    left = np.zeros(len(names))
    places = np.arange(len(names))
    size, unit = _unit(max(figure.numbers("total")))
    for column, (label, colour) in phases.items():
        width = np.array(figure.numbers(column)) / size
        axes.barh(places, width, left=left, color=colour, label=label)
        left += width
    for place, total, end in zip(range(len(names)), figure.numbers("total"), left, strict=True):
        axes.annotate(
            duration(total), (end, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_xlim(0, max(left.max() * 1.12, 1e-9))
    axes.set_xlabel(unit)
    _name_rows(axes, names)
    legend(axes, 4)
    return drawing


def users(figures: Figures) -> Canvas:
    """Draw the users whose jobs ran longest, and how many jobs each had."""
    figure = figures["users"]
    if not figure.rows:
        return nothing(_QUIET)
    drawing = Canvas(figsize=(WIDTH, _height(len(figure.rows))), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    names = [short(name) for name in figure.column("owner")]
    places = np.arange(len(names))
    size, unit = _unit(max(figure.numbers("running")))
    kinds = (
        (left, np.array(figure.numbers("running")) / size, f"running, {unit}", FIRST),
        (
            right,
            np.array(figure.numbers("arrived")),
            "jobs that arrived",
            STATE_COLOURS[State.CREATED],
        ),
    )
    for axes, values, label, colour in kinds:
        axes.barh(places, values, color=colour)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y", visible=False)
    _name_rows(left, names)
    return drawing


def _unit(seconds: float) -> tuple[float, str]:
    """Return in which unit lengths up to this one are drawn."""
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return size, name
    return 1, "seconds"


def _height(rows: int) -> float:
    return 1.0 + 0.25 * max(rows, 2)


def _bars(rows: int) -> tuple[Canvas, Axes]:
    drawing, (axes,) = canvas(_height(rows))
    axes.grid(axis="y", visible=False)
    return drawing, axes


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def waiting(figures: Figures) -> Canvas:
    """Draw how long jobs waited."""
    found = ridges(figures["waiting"], figures["waiting_distribution"])
    return found or nothing("No job was taken up in this range.")


def running(figures: Figures) -> Canvas:
    """Draw how long jobs ran."""
    found = ridges(figures["running"], figures["running_distribution"])
    return found or nothing("No run ended in this range.")


#: Every plot by its name.
PLOTS: Final[Mapping[str, Callable[[Figures], Canvas]]] = {
    plot.__name__: plot for plot in (types, arrivals, flow, waiting, running, rates, slowest, users)
}
