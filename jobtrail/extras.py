"""What parts of jobtrail need beyond its base, and the sentence that says so where it is missing.

The base is what a producer and a client need; a worker of Celery or a notebook installs no Java for
that. `pip install 'jobtrail[server]'` brings the service, the other extras bring what they say.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

from jobtrail.core.errors import UsageError

#: By extra, the import names of the packages that it brings and that its part can't do without.
BRINGS: Final = {
    "server": (
        "apsw",
        "cramjam",
        "faust",
        "filelock",
        "jgo",
        "jwt",
        "numpy",
        "orjson",
        "prometheus_client",
        "pydantic",
        "rich",
        "uvloop",
    ),
    "replay": (
        "cramjam",
        "duckdb",
        "filelock",
        "matplotlib",
        "numpy",
        "orjson",
        "polars",
        "pyarrow",
        "rich",
    ),
    "pg-boss": ("asyncpg", "rich"),
    "postgres": ("psycopg",),
    "parquet": ("pyarrow",),
}


#: How many missing packages a sentence names; it names one more rather than "1 others".
_NAMED: Final = 2


class ExtraMissing(UsageError):
    """Something needs packages that an extra of jobtrail brings."""


def missing(extra: str) -> list[str]:
    """Return which packages of an extra are not installed, by their import names."""
    return [name for name in BRINGS[extra] if not _is_there(name)]


def _is_there(name: str) -> bool:
    # Faust takes its own module's place when it is imported, and has no specification then.
    return sys.modules.get(name) is not None or find_spec(name) is not None


def missing_error(extra: str, what: str) -> ExtraMissing:
    """Return the error that something needs an extra.

    Args:
        extra: Which.
        what: What needs it, as the beginning of a sentence.
    """
    names = missing(extra)
    more = f" and {len(names) - _NAMED} others" if len(names) > _NAMED + 1 else ""
    named = ", ".join(names[:_NAMED] if more else names)
    return ExtraMissing(
        f"{what} needs packages that are not installed ({named}{more}): "
        f"pip install 'jobtrail[{extra}]' brings them."
    )


def require_extra(extra: str, what: str) -> None:
    """Make sure that the packages of an extra are installed.

    Args:
        extra: Which.
        what: What needs it, as the beginning of a sentence.

    Raises:
        ExtraMissing: One of them is not.
    """
    if missing(extra):
        raise missing_error(extra, what)
