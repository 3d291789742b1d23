"""Tables and lines for people: rich, without its markup, and with texts that are safe to show.

Rich takes `[...]` in a text for markup: an event could colour a line, spoof a link, or end the
command by a tag that is not closed.

It is imported when something is drawn: a command that answers in JSON does without.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from jobtrail.terminal.text import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def can_draw() -> bool:
    """Tell whether rich is installed, which a light installation does without."""
    return find_spec("rich") is not None


class Styled(NamedTuple):
    """A text with a style of rich's."""

    text: str
    style: str


Cell = str | Styled


class Grid:
    """A table of texts.

    Args:
        *columns: Their names.
        right: Whether all but the first column are figures.
        no_wrap: Whether no cell may take a second line.
    """

    def __init__(self, *columns: str, right: bool = False, no_wrap: bool = False) -> None:
        from rich.box import SIMPLE
        from rich.table import Table

        self.table = Table(box=SIMPLE)
        for number, name in enumerate(columns):
            justify: Any = "right" if right and number else "left"
            self.table.add_column(_safe(name), justify=justify, no_wrap=no_wrap)

    def add(self, *cells: Cell, style: str | None = None) -> None:
        """Add a row."""
        self.table.add_row(*map(_safe, cells), style=style)

    def align_right(self, *columns: int) -> None:
        """Align columns, counted from 0, to the right."""
        for column in columns:
            self.table.columns[column].justify = "right"

    def add_section(self) -> None:
        """Draw a line below the rows so far."""
        self.table.add_section()


class Screen:
    """Standard output for people.

    Args:
        wrap: Whether long lines are left to the terminal to break.
        file: Another file to write to, without colours.
        width: Its columns.
    """

    def __init__(
        self, *, wrap: bool = False, file: IO[str] | None = None, width: int | None = None
    ) -> None:
        from rich.console import Console

        colours: Any = "auto" if file is None else None
        self._console = Console(
            file=file, width=width, color_system=colours, soft_wrap=wrap, highlight=False,
            markup=False, emoji=False,
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Columns."""
        return self._console.width

    def say(self, text: str, style: str | None = None, end: str = "\n") -> None:
        """Print a line."""
        self._console.print(_safe(text), style=style, end=end)

    def show(self, grid: Grid) -> None:
        """Print a table."""
        self._console.print(grid.table)


def _safe(cell: Cell) -> Text:
    from rich.text import Text

    if isinstance(cell, Styled):
        return Text(visible(cell.text), cell.style)
    return Text(visible(cell))


def progress_console() -> Console:
    """Return where progress is drawn: standard error."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False)
