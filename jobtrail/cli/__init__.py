"""The command line. Names and behaviours are fixed: people's scripts depend on them.

Results go to standard output, progress and messages to standard error; exit status 0, 1 (failed)
or 2 (wrong usage).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final, NamedTuple

import click

from jobtrail.core.errors import JobtrailError, SettingError, UsageError
from jobtrail.extras import missing, missing_error
from jobtrail.terminal.text import complain, guard_terminal
from jobtrail.version import __version__


class Place(NamedTuple):
    """Where a command is, and what may be said of it before it is imported."""

    #: The module below this one, and what the command is called there.
    module: str
    called: str
    #: The extra of jobtrail that brings what it needs; None for the base.
    extra: str | None
    #: The first sentence of its help.
    what: str


#: Each command by its name.
COMMANDS: Final = {
    "up": Place(
        "up",
        "up",
        "server",
        "Run everything on this machine, in the foreground, until SIGINT or SIGTERM.",
    ),
    "projector": Place(
        "own_processes",
        "projector",
        "server",
        "Run one projector in the foreground, until SIGINT or SIGTERM.",
    ),
    "api": Place(
        "own_processes",
        "api",
        "server",
        "Run one API process in the foreground, until SIGINT or SIGTERM.",
    ),
    "token": Place("token", "token", "server", "Print a token for the local service."),
    "keys": Place("keys", "keys", "server", "Make, list and revoke API keys."),
    "emit": Place(
        "emit",
        "emit",
        None,
        "Append the events of FILE, one CloudEvent in JSON a line, to the log.",
    ),
    "import": Place(
        "imports",
        "import_",
        "server",
        "Import events from elsewhere; importing again changes nothing.",
    ),
    "bridge": Place(
        "bridge", "bridge", "pg-boss", "Follow another job system; duplicates change nothing."
    ),
    "status": Place(
        "status",
        "status",
        "server",
        "Show what runs, the lag of each partition, the number of jobs, and versions.",
    ),
    "doctor": Place(
        "doctor",
        "doctor",
        "server",
        "Check Java, files, processes, Kafka and store, and explain how to repair what is wrong.",
    ),
    "search": Place(
        "ask", "search", None, "List jobs, newest first: as a table, or one JSON object a line."
    ),
    "summary": Place("ask", "summary", None, "Count jobs by type and state."),
    "get": Place(
        "ask", "get", None, "Show the states of jobs; the exit status is 1 where one is unknown."
    ),
    "wait": Place(
        "ask",
        "wait",
        None,
        "Wait until jobs have ended; the exit status is 1 after a timeout.",
    ),
    "explain": Place(
        "explain",
        "explain",
        None,
        "Show what happened to JOB: its events, why some did not count, and where time went.",
    ),
    "replay": Place(
        "replay",
        "replay",
        "replay",
        "Read the log again: events, or the jobs and transitions that they make.",
    ),
    "report": Place(
        "report",
        "report",
        "replay",
        "Write what jobs did: arrivals, ends, waiting, running, failures, who and which took "
        "longest.",
    ),
    "diff": Place(
        "diff",
        "diff",
        "replay",
        "Show which jobs changed between two instants or positions, and the counts before and "
        "after.",
    ),
    "archive": Place(
        "archive",
        "archive",
        "replay",
        "Archive the log as Parquet, in a folder or an S3-compatible store.",
    ),
    "verify": Place(
        "verify",
        "verify",
        "server",
        "Fold the log once more and compare the complete store with it, while both are in use.",
    ),
    "rebuild": Place(
        "rebuild",
        "rebuild",
        "server",
        "Fold the projections again from the log, beside those that serve, and switch when caught "
        "up.",
    ),
    "dead": Place(
        "dead",
        "dead",
        "server",
        "List records of the log that are no valid event, write them back, or drop them.",
    ),
    "skip": Place(
        "skip",
        "skip",
        "server",
        "Continue after a hole in the log: lost records that nothing accounts for.",
    ),
    "log": Place("log", "log", "server", "Copy the log."),
}


def command(name: str) -> click.Command:
    """Import a command by its name; where its extra is missing, return one that says so."""
    place = COMMANDS[name]
    if place.extra is not None and missing(place.extra):
        return _without(name, place.extra, place.what)
    module = importlib.import_module(f"{__name__}.{place.module}")
    found: click.Command = getattr(module, place.called)
    return found


def _without(name: str, extra: str, what: str) -> click.Command:
    """Return a command in place of one that can't be imported: it has its name, but no options."""
    error = missing_error(extra, f"`jobtrail {name}`")

    def refuse(_given: tuple[str, ...]) -> None:
        raise error

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["_given"], nargs=-1, metavar="...")],
        help=f"{what}\n\n{error}",
        context_settings={"ignore_unknown_options": True},
    )


class _Commands(click.Group):
    """Prints every error of ours as one line, with the right exit status.

    A command is imported when it is called: importing all of them takes several times as long.
    """

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].what) for name in sorted(COMMANDS)])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except JobtrailError as error:
            complain(error, "error: ")
            sys.exit(2 if isinstance(error, UsageError | SettingError) else 1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jobtrail")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the local service. Default: JOBTRAIL_DATA_DIR, else the user's data folder.",
)
@click.pass_context
def main(ctx: click.Context, data_dir: Path | None) -> None:
    """Know what every job is doing."""
    guard_terminal()
    ctx.obj = data_dir
