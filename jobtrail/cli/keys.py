"""`jobtrail keys`: API keys for programs; a running service reads them by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson

from jobtrail.access.api_keys import ApiKey, add_key, make_key, read_keys, revoke_key
from jobtrail.cli.common import chosen_data_dir, data_dir_option
from jobtrail.settings import load
from jobtrail.terminal.tables import Grid, Screen
from jobtrail.terminal.text import err, out, out_json


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--user", required=True, help="The user that the key's bearer acts as.")
@click.option("--group", "groups", multiple=True, help="A group of theirs; repeatable.")
@click.option(
    "--permission", "permissions", multiple=True, help="jobs:read:all or jobs:write; repeatable."
)
@click.option(
    "--source", "sources", multiple=True,
    help="Write only events of this CloudEvents source; repeatable.",
)  # fmt: skip
@click.option(
    "--expires-in-days", "days", type=click.IntRange(1, 36_500),
    help="How long it is valid. Default: until it is revoked.",
)  # fmt: skip
@click.option("--name", default="", help="What it is for.")
@data_dir_option
def create(
    user: str,
    groups: tuple[str, ...],
    permissions: tuple[str, ...],
    sources: tuple[str, ...],
    days: int | None,
    name: str,
    data_dir: Path | None,
) -> None:
    """Print a new key, which is shown only once."""
    now = datetime.now(UTC).replace(microsecond=0)
    key, text = make_key(
        user,
        at=now,
        expires_at=None if days is None else now + timedelta(days=days),
        groups=groups,
        permissions=permissions,
        sources=sources,
        name=name,
    )
    add_key(_file(data_dir), key)
    out(text)
    end = f"until {_as_text(key.expires_at)}" if key.expires_at else "until it is revoked"
    err(f"key {key.id}, good {end}; it is not shown again")


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@data_dir_option
def list_(as_json: bool, data_dir: Path | None) -> None:
    """List all keys, including expired ones, without secrets."""
    rows = [_row(key) for key in read_keys(_file(data_dir))]
    if as_json:
        out_json(orjson.dumps(rows))
        return
    columns = ("id", "name", "user", "groups", "permissions", "sources", "expires")
    grid = Grid(*columns)
    for row in rows:
        lists = (" ".join(row[column]) for column in columns[3:6])
        grid.add(row["id"], row["name"], row["user"], *lists, row["expiresAt"] or "never")
    Screen(wrap=True).show(grid)


@keys.command()
@click.argument("key_id", metavar="ID")
@data_dir_option
def revoke(key_id: str, data_dir: Path | None) -> None:
    """Revoke a key: the service refuses it within a second."""
    key = revoke_key(_file(data_dir), key_id)
    err(f"key {key.id} of {key.user} is revoked")


def _file(data_dir: Path | None) -> Path:
    return load(data_dir=chosen_data_dir(data_dir)).keys_path


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "user": key.user,
        "groups": key.groups,
        "permissions": key.permissions,
        "sources": key.sources,
        "createdAt": _as_text(key.created_at),
        "expiresAt": _as_text(key.expires_at) if key.expires_at else None,
    }


def _as_text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
