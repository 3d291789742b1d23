"""The internals of Celery that `jobtrail.integrations.celery` uses; nothing else imports them."""

from __future__ import annotations

from typing import Final

from celery.utils.time import maybe_make_aware

from jobtrail.internals.internal import Internal

__all__ = ["maybe_make_aware"]

#: The distribution whose internals these are.
LIBRARY: Final = "celery"

INTERNALS: Final = (
    Internal(
        "celery.utils.time:maybe_make_aware",
        "a task's time without a zone means what it means to Celery",
        ("dt", "tz", "naive_as_utc"),
    ),
)
