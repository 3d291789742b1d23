"""What a batch of the log may be unpacked to.

It lies beside what unpacks, so that a producer, who unpacks nothing, needs no decompressors.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What a batch may be unpacked to: one with more is not read, but buried as it is."""

    #: Bytes.
    size: int = 32 * 1024 * 1024
    records: int = 50_000
