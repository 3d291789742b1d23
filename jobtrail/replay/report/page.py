"""The page of a report: one HTML file with its plots and its style, that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.resources import files
from typing import Final

from jobtrail.core.durations import duration
from jobtrail.core.events import from_microseconds
from jobtrail.core.position import format_position
from jobtrail.replay.report import svg
from jobtrail.replay.report.changes import ALL_TYPES, Bins
from jobtrail.replay.report.figure import ENDS, Column, Figure, Value
from jobtrail.replay.report.plots import PLOTS
from jobtrail.replay.report.sections import FOLDED, SECTIONS, Section
from jobtrail.version import __version__

_NOTHING: Final = "–"
#: Letters of a name that is never broken.
_SHORT: Final = 10


@dataclass(frozen=True)
class About:
    """What a report says of itself.

    Args:
        log: Which log, in words.
        position: Up to where it was read: per partition the offset before which everything is in.
        asked: The range that was asked for, in words.
        filters: What chose the jobs, in words, one for each filter.
        made: When the report was made.
    """

    log: str
    position: Mapping[int, int]
    asked: str
    filters: tuple[str, ...]
    made: datetime


def page(
    about: About,
    figures: Mapping[str, Figure],
    begin: int | None,
    end: int | None,
    bins: Bins | None,
) -> str:
    """Return the page.

    Args:
        about: What it says of itself.
        figures: What it shows.
        begin: The first instant, microseconds since 1970.
        end: The last one.
        bins: How time is cut.
    """
    span = _NOTHING if begin is None or end is None else f"{_instant(begin)} to {_instant(end)}"
    style = (files(__package__) / "page.css").read_text("utf-8")
    style = style.replace("LIGHT", svg.variables(dark=False))
    style = style.replace("DARK", svg.variables(dark=True))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">",
        f"<title>Jobs, {escape(span)}</title>",
        '<link rel="icon" href="data:,">',
        f"<style>{style}</style></head><body>",
        f"<header><h1>What the jobs did</h1><p class=lead>{escape(span)}, UTC</p>",
        *_cards(figures),
        *_about(about, figures, bins),
        "</header><nav aria-label=Contents><ul>",
        *(f'<li><a href="#{s.name}">{escape(s.title)}</a></li>' for s in SECTIONS),
        "</ul></nav><main>",
        *(part for section in SECTIONS for part in _section(section, figures)),
        "</main><footer>All instants are UTC, and are those that the events name. Times that go "
        "backwards, because clocks disagree, count as 0. Made by jobtrail "
        f"{escape(__version__)}.</footer></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _cards(figures: Mapping[str, Figure]) -> Iterator[str]:
    """Yield the figures that are looked for first."""
    (totals,) = _records(figures["totals"])
    rates = _whole(figures["rates_by_type"])
    waiting, running = _whole(figures["waiting"]), _whole(figures["running"])
    cards = (
        ("Jobs", f"{totals['jobs']:,}"),
        ("Arrived in the range", f"{totals['arrived']:,}"),
        ("Ended in the range", f"{sum(int(totals[str(end)] or 0) for end in ENDS):,}"),
        ("Open at the end", f"{totals['open']:,}"),
        ("Failure rate", _share(rates.get("failure_rate"))),
        ("Retry rate", _share(rates.get("retry_rate"))),
        ("Waiting, median", _length(waiting.get("p50"))),
        ("Running, median", _length(running.get("p50"))),
    )
    yield "<ul class=cards>"
    for words, value in cards:
        yield f"<li><span>{words}</span><strong>{escape(value)}</strong></li>"
    yield "</ul>"


def _about(about: About, figures: Mapping[str, Figure], bins: Bins | None) -> Iterator[str]:
    (totals,) = _records(figures["totals"])
    facts = {
        "Log": about.log,
        "Range asked for": about.asked,
        "Read up to position": format_position(about.position) or _NOTHING,
        "Jobs chosen": "; ".join(about.filters) or "all",
        "Events of these jobs": f"{totals['events']:,}, of which {totals['ignored']:,} were "
        f"ignored (duplicates, late ones, transitions that the table does not have)",
        "Changes of state": f"{totals['changes']:,} in the range",
        "Steps of time": _NOTHING if bins is None else duration(bins.step / 1e6),
        "Made": f"{about.made:%Y-%m-%d %H:%M:%S} UTC",
    }
    if totals["backwards"]:
        facts["Times that go backwards"] = f"{totals['backwards']:,}: they count as 0"
    yield "<dl>"
    for term, words in facts.items():
        yield f"<dt>{term}</dt><dd>{escape(words)}</dd>"
    yield "</dl>"


def _section(section: Section, figures: Mapping[str, Figure]) -> Iterator[str]:
    name = section.name
    yield f'<section id="{name}" aria-labelledby="{name}-heading">'
    yield f'<h2 id="{name}-heading">{escape(section.title)}</h2>'
    yield f"<p class=words>{escape(section.words)}</p>"
    if section.plot:
        drawing = PLOTS[section.plot](figures)
        element = svg.inline(drawing, f"plot-{name}", section.title, section.words)
        yield f"<figure class=plot>{element}</figure>"
    for figure_name, caption in section.tables:
        figure = figures[figure_name]
        table = "".join(_table(figure, caption))
        if figure_name in FOLDED and figure.rows:
            words = f"{caption}: a table of {len(figure.rows)} rows"
            table = f"<details><summary>{escape(words)}</summary>{table}</details>"
        yield table
    yield "</section>"


def _table(figure: Figure, caption: str) -> Iterator[str]:
    if not figure.rows:
        yield f"<p class=soft>{escape(caption)}: none.</p>"
        return
    yield f'<div class=table role=region tabindex=0 aria-label="{escape(caption)}"><table>'
    yield f"<caption>{escape(caption)}</caption><thead><tr>"
    for column in figure.columns:
        kind = "" if column.kind in ("text", "instant") else " class=n"
        yield f"<th scope=col{kind}>{escape(column.heading)}</th>"
    yield "</tr></thead><tbody>"
    for row in figure.rows:
        yield "<tr class=whole>" if row[0] == ALL_TYPES else "<tr>"
        first, *rest = map(_cell, figure.columns, row)
        yield f"<th scope=row class=long>{first}</th>"
        for column, cell in zip(figure.columns[1:], rest, strict=True):
            yield f'<td class="{_look(column, cell)}">{cell}</td>'
        yield "</tr>"
    yield "</tbody></table></div>"


def _look(column: Column, cell: str) -> str:
    """Return the classes of a cell: on narrow paper long names may be broken."""
    if column.kind == "text":
        return "long" if len(cell) > _SHORT else ""
    return "n"


def _cell(column: Column, value: Value) -> str:
    if column.kind == "share":
        return _share(value)
    if column.kind == "seconds":
        # Exactly, for who points at it.
        return _NOTHING if value is None else f'<span title="{value} s">{_length(value)}</span>'
    if column.kind == "instant":
        return _NOTHING if value is None else _instant(int(value))
    if column.kind == "count":
        return f"{value:,}"
    return escape(str(value))


def _share(value: Value) -> str:
    if value is None:
        return _NOTHING
    percent = 100 * float(value)
    if percent == 0 or percent >= 10:
        return f"{percent:.1f} %"
    # Two digits that mean something.
    return f"{percent:.{1 - math.floor(math.log10(percent))}f} %"


def _length(value: Value) -> str:
    return _NOTHING if value is None else duration(float(value))


def _instant(value: int) -> str:
    # Not `strftime`: it writes the year 2 as one digit.
    return from_microseconds(value).isoformat(" ", "seconds").removesuffix("+00:00")


def _records(figure: Figure) -> list[dict[str, Value]]:
    names = [column.name for column in figure.columns]
    return [dict(zip(names, row, strict=True)) for row in figure.rows]


def _whole(figure: Figure) -> dict[str, Value]:
    """Return the row of all job types; nothing where there is none."""
    found = [row for row in _records(figure) if row["job_type"] == ALL_TYPES]
    return found[0] if found else {}
