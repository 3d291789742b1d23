"""The position at which a store was last verified against its log, stored beside it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from jobtrail.files.atomic import atomic_write

#: In the store's folder.
VERIFIED: Final = "verified.json"


class Verified(msgspec.Struct, frozen=True):
    """The content of the file."""

    position: str
    #: Seconds since 1970.
    at: float
    #: One in this many jobs was compared.
    sample: int


def write_verified(store: Path, verified: Verified) -> None:
    """Write the file.

    Args:
        store: The store's folder.
        verified: The result.

    Raises:
        OSError: It can't be written.
    """
    atomic_write(store / VERIFIED, msgspec.json.encode(verified))


def read_verified(store: Path) -> Verified | None:
    """Return the last result; None where there is none, or it can't be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((store / VERIFIED).read_bytes(), type=Verified)
    return None
