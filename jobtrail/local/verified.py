"""At which position a store was last found equal to its log, kept beside it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from jobtrail.files.atomic import atomic_write

#: In the store's folder.
VERIFIED: Final = "verified.json"


class Verified(msgspec.Struct, frozen=True):
    """What the file says."""

    position: str
    #: Seconds since 1970.
    at: float
    #: One job in so many was compared.
    sample: int


def write_verified(store: Path, verified: Verified) -> None:
    """Keep it.

    Args:
        store: The store's folder.
        verified: What was found.

    Raises:
        OSError: It can't be written.
    """
    atomic_write(store / VERIFIED, msgspec.json.encode(verified))


def read_verified(store: Path) -> Verified | None:
    """Return what was found last; None where nothing was, or it can't be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((store / VERIFIED).read_bytes(), type=Verified)
    return None
