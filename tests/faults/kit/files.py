"""Harm that is done to files: a log's segment, a shard, `store.json`.

The process that has the file open is to be stopped first where the test is of damage at rest.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path


def truncate(path: Path, to: int | float) -> int:
    """Cut a file off: at so many bytes, or at a share of its size; return its size now."""
    size = path.stat().st_size
    left = int(size * to) if isinstance(to, float) else min(to, size)
    with path.open("r+b") as file:
        file.truncate(left)
    return left


def flip(path: Path, seed: int, count: int = 1, *, begin: int = 0, end: int | None = None) -> None:
    """Flip a bit in some bytes of a file."""
    draw = random.Random(seed)
    end = path.stat().st_size if end is None else end
    with path.open("r+b") as file:
        for _ in range(count):
            at = draw.randrange(begin, end)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << draw.randrange(8))]))


def zero(path: Path, begin: int, count: int) -> None:
    """Write zeros over a part of a file."""
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(bytes(count))


def swap(one: Path, other: Path) -> None:
    """Let two files have each other's place."""
    draft = one.with_name(f"{one.name}.swap")
    one.replace(draft)
    other.replace(one)
    draft.replace(other)


def as_another_inode(path: Path) -> None:
    """Put an equal file in a file's place: who has it open goes on with the one that is gone."""
    draft = path.with_name(f"{path.name}.copy")
    shutil.copy2(path, draft)
    draft.replace(path)


def segments(kafka: Path, topic: str, partition: int) -> list[Path]:
    """Return the files that hold a partition's records, the oldest first."""
    return sorted((kafka / f"{topic}-{partition}").glob("*.log"))
