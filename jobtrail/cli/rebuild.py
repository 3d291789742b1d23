"""`jobtrail rebuild`: the store folded again while it serves."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jobtrail.cli.common import log_options, store_settings
from jobtrail.processes.runtime import run_in_foreground


@click.command()
@click.option(
    "--shard", type=click.IntRange(0), metavar="N",
    help="Only this one. Default: all, one after the other.",
)  # fmt: skip
@click.option(
    "--from-what-is-left", is_flag=True,
    help="Also where the log no longer has everything that is in a shard: the shard loses it, too.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--store", help="Projection store: sqlite:///FOLDER.")
@log_options
def rebuild(
    shard: int | None,
    from_what_is_left: bool,
    as_json: bool,
    store: str | None,
    data_dir: Path | None,
    bootstrap_servers: str | None,
) -> None:
    """Fold the projections again from the log, beside those that serve, and switch when caught up.

    Killed or interrupted at any point, the serving ones are unchanged; the next rebuild removes the
    leftovers.
    """
    settings = store_settings(data_dir, bootstrap_servers, store)
    arguments = [
        *([] if shard is None else ["--shard", str(shard)]),
        *(["--from-what-is-left"] if from_what_is_left else []),
        *(["--json"] if as_json else []),
    ]
    sys.exit(run_in_foreground("projections.rebuild", arguments, settings))
