"""The command line. Names and behaviours are fixed: people's scripts depend on them.

Results go to standard output, progress and messages to standard error; exit status 0, 1 (failed)
or 2 (wrong usage).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jobtrail.cli.archive import archive
from jobtrail.cli.ask import get, search, summary, wait
from jobtrail.cli.bridge import bridge
from jobtrail.cli.diff import diff
from jobtrail.cli.emit import emit
from jobtrail.cli.explain import explain
from jobtrail.cli.imports import import_
from jobtrail.cli.keys import keys
from jobtrail.cli.replay import replay
from jobtrail.cli.report import report
from jobtrail.cli.status import status
from jobtrail.cli.token import token
from jobtrail.cli.up import up
from jobtrail.errors import JobtrailError, SettingError, UsageError
from jobtrail.version import __version__


class _Commands(click.Group):
    """Says every error of ours as one sentence, with the right exit status."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except JobtrailError as error:
            click.echo(f"error: {error}", err=True)
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
    ctx.obj = data_dir


for _command in (
    up,
    token,
    keys,
    emit,
    import_,
    bridge,
    status,
    search,
    summary,
    get,
    wait,
    explain,
    replay,
    report,
    diff,
    archive,
):
    main.add_command(_command)
