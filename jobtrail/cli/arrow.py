"""How a command starts PyArrow: without pandas, and on the system's allocator.

Where pandas is installed, PyArrow imports it with the first array that it makes, to tell its series
from other sequences: 0.4 to 0.7 s and 45 MiB, and no command needs it. It asks once and keeps the
answer, so the question is put here while pandas can't be found; after that whoever wants pandas
finds it as ever, PyArrow's `to_pandas` too. And what PyArrow's own allocator keeps of a large
export the system's gives back: 80 MiB for a million events.

Only a command's own process does so: the library leaves both to whoever uses it.
"""

from __future__ import annotations

import sys


class _NoPandas:
    """Finds no pandas, first of all that `sys.meta_path` has."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=name)


def start_arrow() -> None:
    """Import PyArrow in a command's way, unless it or pandas is there already.

    Raises:
        ModuleNotFoundError: PyArrow is not installed.
    """
    if "pyarrow" in sys.modules or "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)
    pa.set_memory_pool(pa.system_memory_pool())
