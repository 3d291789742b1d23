"""Shared by the commands: options, finding the service, progress."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import click
import msgspec

from jobtrail.cli.arrow import start_arrow
from jobtrail.core.position import format_position
from jobtrail.local.running import with_log
from jobtrail.settings import Settings, load
from jobtrail.terminal.tables import can_draw, progress_console
from jobtrail.terminal.text import err, out, out_json

if TYPE_CHECKING:
    from jobtrail.produce.log_writer import LogWriter

_F = TypeVar("_F", bound=Callable[..., Any])
#: The default limit of rows on a terminal.
ROWS: Final = 50
#: Seconds between two updates of a progress bar.
_SHOW_EVERY: Final = 0.1


def data_dir_option(command: _F) -> _F:
    """Add `--data-dir`, which may stand before or after the command's name."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of the local service. Default: JOBTRAIL_DATA_DIR, else the user's data "
        "folder.",
    )(command)


def log_options(command: _F) -> _F:
    """Add the options of commands that write to the log."""
    return data_dir_option(
        click.option("--bootstrap-servers", help="Another Kafka: host:port[,host:port].")(command)
    )


def archive_option(command: _F) -> _F:
    """Add `--archive`, for records that the log may no longer have."""
    return click.option("--archive", help="Read this archive too: a folder or s3://bucket/prefix.")(
        command
    )


def raw_option(command: _F) -> _F:
    """Add `--raw`, for CSV that is read by a program."""
    return click.option(
        "--raw",
        is_flag=True,
        help="Don't escape CSV cells that a spreadsheet would run as formulas.",
    )(command)


def holes_option(command: _F) -> _F:
    """Add `--skip-holes`; `skipper` converts it into the argument of `Replay.open`."""
    return click.option(
        "--skip-holes",
        is_flag=True,
        help="Continue after records that the log, or an archive, has lost; each hole is reported.",
    )(command)


def skipper(skip_holes: bool) -> Callable[[str], None] | None:
    """Return a function that reports skipped holes on standard error; None to skip none."""
    return err if skip_holes else None


def chosen_data_dir(given: Path | None) -> Path | None:
    """Return the data folder that was given before or after the command's name."""
    before: Path | None = click.get_current_context().obj
    return given if given is not None else before


def log_settings(data_dir: Path | None, bootstrap_servers: str | None) -> Settings:
    """Return settings that reach a log: the given one, the environment's, or the local one's.

    Raises:
        NotRunning: None is named, and no local service runs.
    """
    return with_log(load(data_dir=chosen_data_dir(data_dir), bootstrap_servers=bootstrap_servers))


def store_settings(
    data_dir: Path | None, bootstrap_servers: str | None, store: str | None
) -> Settings:
    """Return settings that reach a log and its projection store, for a process of ours.

    Raises:
        NotRunning: No log is named, and no local service runs.
    """
    settings = load(
        data_dir=chosen_data_dir(data_dir), bootstrap_servers=bootstrap_servers, store=store
    )
    # A process must not get a relative path: it may run in another folder.
    return with_log(settings.model_copy(update={"data_dir": settings.data_dir.absolute()}))


def prepare_to_read() -> None:
    """Set up the process of a command that reads a log.

    Such a command makes millions of objects and no cycles, so the collector runs seldom from
    here on: it cost a microsecond per event, and a tenth of the start. Nothing is frozen: DuckDB
    would warn about objects that are left at the end.
    """
    gc.set_threshold(100_000, 20, 50)
    start_arrow()


class Progress(Protocol):
    """A function that takes the steps done, and the total where it has changed."""

    def __call__(self, steps: int, total: int | None = None, /) -> None:
        """Update the progress."""


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Progress]:
    """Show progress on a terminal, nothing in a pipe.

    Args:
        what: The activity.
        total: The number of steps; None where unknown.

    Yields:
        A function that takes how many steps are done.
    """
    if not (sys.stderr.isatty() and can_draw()):
        yield lambda _steps, _total=None, /: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Bar(*columns, console=progress_console()) as bar:
        task = bar.add_task(what, total=total, rate="")
        latest, due = 0, 0.0

        def show() -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=latest, rate=f"{speed:,.0f}/s" if speed else "")

        def done(steps: int, of: int | None = None, /) -> None:
            nonlocal latest, due
            latest = steps
            if of is not None:
                bar.update(task, total=of)
            # Drawing takes longer than a step.
            if (now := time.monotonic()) >= due:
                due = now + _SHOW_EVERY
                show()

        yield done
        show()


def tags_of(given: Iterable[str]) -> dict[str, str]:
    """Parse tags of the form KEY:VALUE.

    Raises:
        BadParameter: One has another form.
    """
    if any(":" not in tag for tag in given):
        raise click.BadParameter("expected KEY:VALUE", param_hint="--tag")
    return dict(tag.split(":", 1) for tag in given)


def tabular(as_json: bool) -> bool:
    """Tell whether to print a table: on a terminal, unless `--json` is given.

    Where nothing is installed that draws tables, it is JSON there too.
    """
    return not as_json and sys.stdout.isatty() and can_draw()


def url_option(command: _F) -> _F:
    """Add `--url`, for a service that is not the local one."""
    return click.option("--url", help="Another service: http://HOST:PORT.")(command)


def report(
    writer: LogWriter,
    refused: int,
    *,
    what: str,
    as_json: bool,
    note: str = "",
    more: Mapping[str, int] = {},
) -> None:
    """Print what a command wrote to the log; exit with status 1 where it refused anything.

    Args:
        writer: The writer.
        refused: The number of lines or rows that were no valid event.
        what: Their name, such as `lines`.
        as_json: Print it for a machine.
        note: Added to the text, such as `, projected`.
        more: Added to the JSON.
    """
    position = format_position(writer.position)
    if as_json:
        outcome = {
            "acknowledged": writer.acknowledged,
            "refused": refused,
            "position": position or None,
            **more,
        }
        out_json(msgspec.json.encode(outcome))
    else:
        at = f", position {position}" if position else ""
        out(f"{writer.acknowledged} events acknowledged{note}{at}")
    if refused:
        err(f"{refused} {what} refused")
        sys.exit(1)
