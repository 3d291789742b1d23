"""The plot of distributions: one row per job type, on an axis of time that goes by powers."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from jobtrail.replay.report.figure import Figure
from jobtrail.replay.report.style import (
    FIRST,
    GRID,
    INK,
    PAPER,
    SHORTEST,
    SOFT,
    canvas,
    legend,
    length_axis,
    short,
)

#: The part of a row that the highest column takes.
_TALLEST: Final = 0.72
_MARKS: Final = (("p50", "o"), ("p90", "D"), ("p99", "^"), ("max", "|"))


def ridges(percentiles: Figure, distribution: Figure) -> Canvas | None:
    """Draw a distribution per job type with its percentiles.

    Args:
        percentiles: As `waiting` or `running`.
        distribution: The same stays, by their length.

    Returns:
        The drawing; None where there is nothing to draw.
    """
    if not percentiles.rows:
        return None
    names = [str(name) for name in percentiles.column("job_type")]
    drawing, (axes,) = canvas(1.0 + 0.62 * len(names))
    spans = list(
        zip(distribution.numbers("seconds_from"), distribution.numbers("seconds_to"), strict=True)
    )
    floor, ceiling = _left_of(spans)
    lows = [low or floor for low, _ in spans]
    # Beyond the last edge there is no other.
    highs = [ceiling if low == 0 else low * 2 if np.isnan(high) else high for low, high in spans]
    for place, name in enumerate(names):
        own = [at for at, other in enumerate(distribution.column("job_type")) if other == name]
        _row(
            axes,
            place,
            np.array([lows[at] for at in own]),
            np.array([highs[at] for at in own]),
            np.array(distribution.numbers("stays"))[own],
        )
    for column, marker in _MARKS:
        at = [
            value if value >= SHORTEST else (floor * ceiling) ** 0.5
            for value in percentiles.numbers(column)
        ]
        style = {"s": 70, "linewidths": 1.6} if marker == "|" else {"s": 26, "linewidths": 0.7}
        face = INK if marker == "|" else {"p50": PAPER, "p90": SOFT, "p99": INK}[column]
        axes.scatter(
            at,
            np.arange(len(names)) + 0.1,
            marker=marker,
            facecolors=face,
            edgecolors=None if marker == "|" else INK,
            label=column,
            zorder=4,
            clip_on=False,
            **style,  # type: ignore[arg-type]
        )
    zero = (floor * ceiling) ** 0.5 if any(low == 0 for low, _ in spans) else None
    length_axis(axes, min(lows) * 0.8, max(highs) * 1.25, zero)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.6, -_TALLEST - 0.12)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("how long, on a logarithmic axis")
    legend(axes, 4)
    return drawing


def _left_of(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Return where what is shorter than all is drawn: a logarithm knows no 0.

    It stands beside the shortest of the others, however far from them it is.
    """
    others = [low for low, _ in spans if low > 0]
    right = min(others, default=SHORTEST) / 1.5
    return right / 1.6, right


def _row(axes: Axes, place: int, low: np.ndarray, high: np.ndarray, stays: np.ndarray) -> None:
    """Draw one type's columns on its own line, the highest as high as any other's."""
    density = stays / np.log(high / low)
    tops = density / density.max() * _TALLEST
    for left, right, top in zip(low, high, tops, strict=True):
        axes.fill_between([left, right], place - top, place, color=FIRST, linewidth=0, alpha=0.75)
    axes.axhline(place, color=GRID, linewidth=0.8, zorder=1)
