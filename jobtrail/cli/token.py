"""`jobtrail token`: a token for the local service."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from jobtrail.access.tokens import local_secret, make_token
from jobtrail.cli.common import chosen_data_dir, data_dir_option
from jobtrail.settings import load
from jobtrail.terminal.text import out


@click.command()
@click.option("--user", required=True, help="Whose token: the `sub` claim.")
@click.option("--group", "groups", multiple=True, help="A group of theirs; repeatable.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    help="jobs:read:all or jobs:write; repeatable.",
)
@click.option(
    "--hours", type=click.FloatRange(0.01, 24 * 366), default=24.0, show_default=True,
    help="How long it is good for.",
)  # fmt: skip
@data_dir_option
def token(
    user: str,
    groups: tuple[str, ...],
    permissions: tuple[str, ...],
    hours: float,
    data_dir: Path | None,
) -> None:
    """Print a token for the local service."""
    settings = load(data_dir=chosen_data_dir(data_dir))
    secret = local_secret(settings.data_dir)
    out(make_token(secret, user, groups, permissions, timedelta(hours=hours)))
