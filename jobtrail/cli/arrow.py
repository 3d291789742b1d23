"""How a command starts PyArrow: without pandas, and on the system's allocator.

Where pandas is installed, PyArrow imports it with the first array that it makes, to distinguish its
series from other sequences: 0.4 to 0.7 s and 45 MiB, and no command needs it. It checks once and
caches the result, so the check is made here while pandas can't be found; after that pandas can be
imported as usual, by PyArrow's `to_pandas` too. And the system's allocator returns memory that
PyArrow's own keeps after a large export: 80 MiB for a million events.

Only a command's own process does so: the library leaves both to its caller.
"""

from __future__ import annotations

import sys


class _NoPandas:
    """An import finder, first in `sys.meta_path`, that hides pandas."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=name)


def start_arrow() -> None:
    """Import PyArrow for a command, unless it or pandas is imported already.

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
