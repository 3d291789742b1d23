"""What a batch of the log may be unpacked to.

It lies beside what unpacks, so that a producer, who unpacks nothing, needs no decompressors.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """How large an unpacked batch may be. A larger one goes to the dead-letter topic unread."""

    #: Bytes.
    size: int = 32 * 1024 * 1024
    records: int = 50_000
