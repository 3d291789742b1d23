"""The command line. Names and behaviours are fixed: people's scripts depend on them.

Results go to standard output, progress and messages to standard error; exit status 0, 1 (failed)
or 2 (wrong usage).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final

import click

from jobtrail.core.errors import JobtrailError, SettingError, UsageError
from jobtrail.terminal.text import complain, guard_terminal
from jobtrail.version import __version__

#: Each command by its name: the module below this one, and what it is called there.
_WHERE: Final = {
    "up": ("up", "up"),
    "projector": ("own_processes", "projector"),
    "api": ("own_processes", "api"),
    "token": ("token", "token"),
    "keys": ("keys", "keys"),
    "emit": ("emit", "emit"),
    "import": ("imports", "import_"),
    "bridge": ("bridge", "bridge"),
    "status": ("status", "status"),
    "doctor": ("doctor", "doctor"),
    "search": ("ask", "search"),
    "summary": ("ask", "summary"),
    "get": ("ask", "get"),
    "wait": ("ask", "wait"),
    "explain": ("explain", "explain"),
    "replay": ("replay", "replay"),
    "report": ("report", "report"),
    "diff": ("diff", "diff"),
    "archive": ("archive", "archive"),
    "verify": ("verify", "verify"),
    "rebuild": ("rebuild", "rebuild"),
    "dead": ("dead", "dead"),
    "skip": ("skip", "skip"),
    "log": ("log", "log"),
}


def command(name: str) -> click.Command:
    """Import a command by its name."""
    module, called = _WHERE[name]
    found: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), called)
    return found


class _Commands(click.Group):
    """Says every error of ours as one sentence, with the right exit status.

    A command is imported when it is asked for: all of them take several times as long as one.
    """

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(_WHERE)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command(cmd_name) if cmd_name in _WHERE else None

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
