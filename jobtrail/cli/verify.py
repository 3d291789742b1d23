"""`jobtrail verify`: the store against the log."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jobtrail.cli.common import log_options, store_settings
from jobtrail.processes.runtime import run_in_foreground


@click.command()
@click.option(
    "--sample", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Compare one job in N, by a hash of its id. Counts are compared with the rows all the "
    "same.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(0), default=20, show_default=True,
    help="How many differences are printed; all are counted.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--store", help="Projection store: sqlite:///FOLDER.")
@log_options
def verify(
    sample: int,
    limit: int,
    as_json: bool,
    store: str | None,
    data_dir: Path | None,
    bootstrap_servers: str | None,
) -> None:
    """Fold the log once more and compare the complete store with it, while both are in use.

    Each shard is copied for it, into the store's folder, and compared at its own checkpoint.
    The exit status is 0 where they are equal, and 1 where they are not.
    """
    settings = store_settings(data_dir, bootstrap_servers, store)
    arguments = ["--sample", str(sample), "--limit", str(limit), *(["--json"] if as_json else [])]
    sys.exit(run_in_foreground("projections.verify", arguments, settings))
