"""How a name is listed that a library may move or rename without notice.

Each module beside this one, and those of the folders `internals` in `projections` and
`services/api`, is the only way to such names of one library. Its list `INTERNALS` says which and
why; `tests/unit/test_internals.py` compares the lists with what is installed.
"""

from __future__ import annotations

from typing import NamedTuple


class Internal(NamedTuple):
    """A name that is used of a library, but is no documented part of it.

    Args:
        where: Where it is, as `module:name`, or `module:Class.attribute`.
        reason: Why it is needed.
        takes: The parameters, in order, of what is replaced or called by position; None where these
            do not matter.
    """

    where: str
    reason: str
    takes: tuple[str, ...] | None = None
