"""Content codings: compresses answers for clients that accept it, at once or as a stream.

Both codings use level 1: 170 KB of jobs become 12 KB in 0.3 ms with zstd, and 18 KB in 0.25 ms with
gzip. Higher levels take up to four times as long for a sixth less.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

import cramjam

Coding: TypeAlias = Literal["zstd", "gzip"]

#: Bytes; smaller bodies are not compressed, since they fit into a packet anyway.
SMALLEST: Final = 1024
_LEVEL: Final = 1
#: The codings by preference, where a client accepts several equally.
_PREFERRED: Final[tuple[Coding, ...]] = ("zstd", "gzip")
_GZIP_TOO: Final = {"x-gzip": "gzip"}


class Stream(Protocol):
    """Compresses a body that comes in parts."""

    def compress(self, some: bytes) -> int:
        """Add a part."""

    def flush(self) -> bytes:
        """Return what was added and not returned yet, so that a client can decode it at once."""

    def finish(self) -> bytes:
        """Return the rest."""


def choose(accepted: str | None) -> Coding | None:
    """Return the available coding that a client prefers.

    Source: RFC 9110, section 12.5.3.

    Args:
        accepted: The value of `Accept-Encoding`, None without that header.

    Returns:
        None where the body is to be sent uncompressed.
    """
    if not accepted:
        return None
    weights: dict[str, float] = {}
    for item in accepted.lower().split(","):
        name, _, parameter = item.partition(";")
        name = name.strip()
        weights[_GZIP_TOO.get(name, name)] = _weight(parameter)
    rest = weights.get("*", 0.0)
    best = max(_PREFERRED, key=lambda coding: weights.get(coding, rest))
    weight = weights.get(best, rest)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0


def compress(body: bytes, coding: Coding) -> bytes:
    """Return a body in a coding."""
    coder = cramjam.zstd if coding == "zstd" else cramjam.gzip
    return bytes(coder.compress(body, _LEVEL))


def stream(coding: Coding) -> Stream:
    """Return a compressor for a body that comes in parts."""
    made: Stream = (cramjam.zstd if coding == "zstd" else cramjam.gzip).Compressor(_LEVEL)
    return made
