"""`jobtrail skip`: let a partition continue after a hole in the log, on purpose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from jobtrail.cli.common import chosen_data_dir, log_options
from jobtrail.local.running import with_log
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import load


@click.command()
@log_options
@click.option("--store", help="Projection store: sqlite:///FOLDER.")
@click.option("--partition", type=click.IntRange(0), required=True, help="Which stands still.")
@click.option(
    "--to", "until", type=click.IntRange(1), required=True, help="The offset after the hole."
)
def skip(
    data_dir: Path | None,
    bootstrap_servers: str | None,
    store: str | None,
    partition: int,
    until: int,
) -> None:
    """Continue after a hole in the log: lost records that nothing accounts for.

    The projector's log, /readyz and `jobtrail status` show where the partition stopped and up to
    where to skip. It is refused where the log has records.
    """
    settings = with_log(
        load(data_dir=chosen_data_dir(data_dir), bootstrap_servers=bootstrap_servers, store=store)
    )
    command = [sys.executable, "-m", "projections.skip"]
    command += ["--partition", str(partition), "--to", str(until)]
    done = subprocess.run(command, env=child_environment(settings), check=False)  # noqa: S603
    raise SystemExit(done.returncode)
