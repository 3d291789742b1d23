"""Plots as SVG that lives in a page: its colours and letters are those of the page's style."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from jobtrail.replay.report.style import DARK

_COLOUR: Final = re.compile("|".join(DARK))
_NAMES: Final = {colour: f"--plot-{number}" for number, colour in enumerate(DARK)}
# A name in a text holds no `>`: it is escaped.
_TAG: Final = re.compile(r"<[^>]*>")
# As matplotlib writes it: `font: 9px 'DejaVu Sans', ...` with the weight before the size.
_FONT: Final = re.compile(r"font: (?:(?:bold|[1-9]00) )?([\d.]+px)[^;\"]*(; text-anchor: \w+)?")


def variables(dark: bool) -> str:
    """Return the declarations of the plots' colours for the style sheet.

    Args:
        dark: Those for a dark screen.
    """
    return " ".join(f"{_NAMES[light]}: {DARK[light] if dark else light};" for light in DARK)


def inline(drawing: Canvas, name: str, title: str, description: str) -> str:
    """Return a drawing as an SVG element.

    Args:
        drawing: The plot.
        name: A name that no other plot of the page has.
        title: What it is, for those who can't see it.
        description: What it shows.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), _quiet():
        drawing.savefig(file, format="svg", metadata=nothing, transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = _TAG.sub(lambda tag: _fit(tag[0], name), text)
    head = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc"'
        f'><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    start, rest = text.split(">", 1)
    return head.replace("<svg", start, 1) + rest.strip()


def _fit(tag: str, name: str) -> str:
    """Make a tag fit for the page: ids of its own, the page's colours and letters."""
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:xmlns:xlink|version|width|height)="[^"]*"', "", tag)
    tag = re.sub(r' id="', f' id="{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    tag = _FONT.sub(lambda font: f"font-size: {font[1]}{font[2] or ''}", tag)
    return _COLOUR.sub(lambda colour: f"var({_NAMES[colour[0]]})", tag)


def png(drawing: Canvas) -> bytes:
    """Return a drawing as a PNG on white."""
    file = io.BytesIO()
    with _quiet():
        drawing.savefig(file, format="png", dpi=160, facecolor="white")
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Don't warn of letters that the font of the measurements lacks: a browser has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield
