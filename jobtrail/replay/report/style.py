"""How plots look: one palette for paper, screen and dark screens, and the axes' common ways.

The colours of the states are those of Okabe and Ito (2008), which people with any of the common
colour blindnesses tell apart. In the page's SVG each colour becomes a variable of its style sheet,
so no two may be equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from jobtrail.core.durations import duration
from jobtrail.core.states import State

INK: Final = "#1c2430"
SOFT: Final = "#5b6675"
GRID: Final = "#dde2e8"
PAPER: Final = "#fffffe"
FIRST: Final = "#0072b1"
SECOND: Final = "#d55e01"
STATE_COLOURS: Final = {
    State.CREATED: "#56b4e9",
    State.ACTIVE: "#0072b2",
    State.RETRY: "#e69f00",
    State.COMPLETED: "#009e73",
    State.FAILED: "#d55e00",
    State.CANCELLED: "#cc79a7",
    State.EXPIRED: "#7a6a58",
}
#: What each colour is on a dark screen.
DARK: Final = {
    INK: "#e8ecf1",
    SOFT: "#a4afbd",
    GRID: "#323c49",
    PAPER: "#161c24",
    FIRST: "#4da6dd",
    SECOND: "#f08a4b",
    STATE_COLOURS[State.CREATED]: "#8fd0f5",
    STATE_COLOURS[State.ACTIVE]: "#3d97d3",
    STATE_COLOURS[State.RETRY]: "#f0b429",
    STATE_COLOURS[State.COMPLETED]: "#2bb98d",
    STATE_COLOURS[State.FAILED]: "#ef7b35",
    STATE_COLOURS[State.CANCELLED]: "#d998bb",
    STATE_COLOURS[State.EXPIRED]: "#a8947e",
}
#: What matplotlib has dates for, in days since 1970: the years 1 to 9999.
_CALENDAR: Final = (-719_162.0, 2_932_896.99)
#: In inches; the page is as wide.
WIDTH: Final = 10.0
#: In seconds: what is shorter is not told apart.
SHORTEST: Final = 0.001
#: The longest name that is written out in a plot; tables have all of it.
_NAME: Final = 26
_MOMENTS: Final = (
    (0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1, "1 s"), (10, "10 s"), (60, "1 min"),
    (600, "10 min"), (3600, "1 h"), (6 * 3600, "6 h"), (86_400, "1 d"), (7 * 86_400, "7 d"),
    (30 * 86_400, "30 d"), (365 * 86_400, "1 year"), (3650 * 86_400, "10 years"),
)  # fmt: skip

_RC: Final[dict[Any, Any]] = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    # Names are the users': a dollar in them begins no formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "date.converter": "concise",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style; what else draws in the process keeps its own."""
    with mpl.rc_context(_RC):
        yield


def canvas(height: float, ratios: Sequence[float] = (1,)) -> tuple[Canvas, list[Axes]]:
    """Return a new drawing of full width with axes below each other, on one x axis.

    Args:
        height: In inches.
        ratios: How high each of the axes is among the others.
    """
    drawing = Canvas(figsize=(WIDTH, height), layout="constrained")
    rows = len(ratios)
    found = drawing.subplots(rows, squeeze=False, sharex=True, height_ratios=ratios)
    return drawing, [axes for row in found for axes in row]


def nothing(words: str) -> Canvas:
    """Return a drawing that says why there is nothing to draw."""
    drawing, (axes,) = canvas(1.2)
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", color=SOFT, fontsize=11)
    return drawing


def dates(instants: Sequence[float]) -> list[float]:
    """Return microseconds since 1970 as matplotlib takes instants: days since then.

    The last step of time may end behind the calendar; there it is cut off.
    """
    return [_within_calendar(instant / 86_400e6) for instant in instants]


def _within_calendar(days: float) -> float:
    return min(max(days, _CALENDAR[0]), _CALENDAR[1])


def time_axis(axes: Axes) -> None:
    """Let the x axis tell the time, in UTC; what is to be seen on it has to be drawn before."""
    # The room at the sides of a plot may have no dates.
    axes.set_xlim(*map(_within_calendar, axes.get_xlim()))
    locator = AutoDateLocator(minticks=5, maxticks=11, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.grid(axis="x", visible=False)


def count_axis(axes: Axes, what: str) -> None:
    """Let the y axis count, from 0."""
    axes.set_ylabel(what)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def length_axis(axes: Axes, low: float, high: float, zero: float | None = None) -> None:
    """Let the x axis be lengths of time, by powers, with the moments that people name.

    Args:
        axes: Which.
        low: The shortest, in seconds.
        high: The longest.
        zero: Where on the axis what is shorter than `SHORTEST` stands, if anywhere.
    """
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    first = low if zero is None else zero * 4
    shown = [(at, name) for at, name in _MOMENTS if first <= at <= high]
    if len(shown) < 2:
        shown = [(at, duration(at)) for at in np.geomspace(first, high, 4).tolist()]
    if zero is not None:
        shown.insert(0, (zero, f"< {duration(SHORTEST)}"))
    axes.xaxis.set_major_locator(FixedLocator([at for at, _ in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticklabels([name for _, name in shown])


def short(name: object) -> str:
    """Return a name as a plot has room for it."""
    text = str(name)
    return text if len(text) <= _NAME else f"{text[: _NAME - 1]}…"


def legend(axes: Axes, columns: int, offset: float = 1.0) -> None:
    """Put the legend above the axes, where it hides nothing."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, offset),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.1,
        handleheight=1.0,
        columnspacing=1.4,
    )
