"""Draws the figure `size`: what an event costs, by how many jobs the projections hold.

Plain SVG, the same for the same result, so that the page's history shows only what changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from benchmarks.results import Result
from benchmarks.size import Slice, shown

_WIDTH: Final = 760
_LEFT: Final = 64
_RIGHT: Final = 20
_PANEL: Final = 128
_GAP: Final = 56
_TOP: Final = 44
_BLUE: Final = "#1f6fb2"
_ORANGE: Final = "#c8641b"
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#444}"
    ".title{font-size:13px;font-weight:600;fill:#222}"
    ".grid{stroke:#e4e4e4}.axis{stroke:#999}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}"
)


class Line(NamedTuple):
    """One line of a panel: a value for each slice."""

    name: str
    colour: str
    values: list[float]


def picture(result: Result) -> str:
    """Return the figure's run as SVG."""
    run = result.runs[0]
    slices = shown([msgspec.convert(found, Slice) for found in run["slices"]], run["joined_at"])
    if len(slices) < 2:
        return _svg(_TOP, [_text(_LEFT, 26, "too few events to draw", "title")])
    jobs = [found.jobs for found in slices]
    panels = [
        ("µs of CPU an event", [Line("", _BLUE, [found.cost for found in slices])]),
        ("events a second, two projectors", [Line("", _BLUE, [found.rate for found in slices])]),
    ]
    if slices[0].anonymous_mib[0] is not None:
        own = [sum(mib or 0.0 for mib in found.anonymous_mib) for found in slices]
        mapped = [sum(mib or 0.0 for mib in found.mapped_mib) for found in slices]
        lines = [Line("their own", _BLUE, own), Line("mapped files", _ORANGE, mapped)]
        panels.append(("MiB resident, both projectors", lines))
    drawn = []
    top = _TOP
    for title, lines in panels:
        drawn += _panel(title, top, jobs, lines)
        top += _PANEL + _GAP
    drawn.append(_text(_WIDTH - _RIGHT, top - 16, "jobs in the projections", anchor="end"))
    return _svg(top, drawn)


def _svg(height: int, drawn: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" role="img" '
            'aria-label="Cost of an event by the number of jobs">',
            f"<style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="#fff"/>',
            *drawn,
            "</svg>\n",
        ]
    )


def _panel(title: str, top: int, jobs: Sequence[int], lines: Sequence[Line]) -> list[str]:
    bottom, right = top + _PANEL, _WIDTH - _RIGHT
    ticks = steps(max(max(line.values) for line in lines))
    low, high = math.log(jobs[0]), math.log(max(jobs[-1], jobs[0] + 1))

    def x(number: float) -> float:
        return _LEFT + (math.log(number) - low) / (high - low) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - value / ticks[-1] * _PANEL

    drawn = [_text(_LEFT, top - 14, title, "title")]
    for tick in ticks:
        drawn.append(_rule(_LEFT, y(tick), right, y(tick), "grid" if tick else "axis"))
        drawn.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:,.0f}", anchor="end"))
    for number in round_numbers(jobs[0], jobs[-1]):
        drawn.append(_rule(x(number), bottom, x(number), bottom + 4, "axis"))
        drawn.append(_text(x(number), bottom + 18, short(number), anchor="middle"))
    for at, line in enumerate(lines):
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(jobs, line.values, strict=True))
        drawn.append(f'<polyline class="line" stroke="{line.colour}" points="{points}"/>')
        if line.name:
            across = right - 210 + at * 100
            swatch = f'x="{across}" y="{top - 20}" width="12" height="3" fill="{line.colour}"'
            drawn += [f"<rect {swatch}/>", _text(across + 18, top - 14, line.name)]
    return drawn


def steps(most: float) -> list[float]:
    """Return the ticks of an axis from 0 to a round number that is not below the most: 3 to 6."""
    rough = max(most, 1e-9) / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= rough)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def round_numbers(low: int, high: int) -> list[int]:
    """Return the 1, 2 and 5 times a power of ten between two numbers of jobs."""
    powers = range(len(str(high)))
    found = [factor * 10**power for power in powers for factor in (1, 2, 5)]
    return [number for number in found if low <= number <= high]


def short(number: int) -> str:
    """Return a round number as an axis shows it: `500 k`, `2 M`."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{number / unit:g} {name}"
    return str(number)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    drawn_as = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{drawn_as}>{text}</text>'


def _rule(x: float, y: float, to_x: float, to_y: float, kind: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="{kind}"/>'
