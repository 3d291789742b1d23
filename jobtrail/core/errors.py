"""The one tree of errors.

An error carries what was expected, what was found, where, and how to mend it, as fields and as
text; whether trying again can help is a property of its class. Nobody has to read the text to
tell two errors apart.
"""

from __future__ import annotations

from typing import ClassVar


class JobtrailError(Exception):
    """Something jobtrail can't do, said so that a person can mend it.

    Args:
        what: One sentence that says what went wrong.
        expected: What would have been right.
        found: What was there instead.
        where: The file, line, setting, job or place in the log.
        hint: What to do about it.
    """

    #: Whether the same call may succeed later without anybody mending anything.
    retriable: ClassVar[bool] = False

    def __init__(
        self,
        what: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.expected = expected
        self.found = found
        self.where = where
        self.hint = hint
        super().__init__(self._text())

    @property
    def mend(self) -> str | None:
        """The older name of `hint`."""
        return self.hint

    def _text(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"Where: {self.where}.")
        if self.expected:
            parts.append(f"Expected: {self.expected}.")
        if self.found:
            parts.append(f"Found: {self.found}.")
        if self.hint:
            parts.append(self.hint)
        return " ".join(parts)


class UsageError(JobtrailError):
    """A command or call was used wrongly (exit status 2)."""


class SettingError(JobtrailError):
    """A setting has a value that can't be used."""


class EventError(JobtrailError):
    """Bytes that are no valid job event.

    `reason` is the stable short name that goes to the dead-letter topic, `path` the names and
    numbers of members that lead to what is wrong, where it is one member.
    """

    def __init__(
        self,
        what: str,
        *,
        reason: str,
        path: tuple[str | int, ...] = (),
        **fields: str | None,
    ) -> None:
        self.reason = reason
        self.path = path
        super().__init__(what, **fields)


class BrokerError(JobtrailError):
    """The local Kafka can't be installed, formatted or started."""


class LogUnavailable(JobtrailError):
    """Kafka did not answer in time.

    Args:
        what: One sentence that says what went wrong.
        outcome_unknown: Whether a write may have taken effect nevertheless; repeating it is
            harmless either way.
        **fields: As of every error.
    """

    retriable = True

    def __init__(self, what: str, *, outcome_unknown: bool = False, **fields: str | None) -> None:
        self.outcome_unknown = outcome_unknown
        #: The event that was not acknowledged, where one was sent: an event of
        #: `jobtrail.core.events`, to be sent again.
        self.event: object = None
        super().__init__(what, **fields)


class StoreError(JobtrailError):
    """The projection store can't be used as it is."""


class StoreDamaged(StoreError):
    """A part of the store is damaged, missing or another file: it has to be made again."""


class FencedError(StoreError):
    """Somebody else moved this partition's checkpoint: this writer's batch must not be applied."""


class LogGapError(StoreError):
    """Offsets of the log are missing that nothing accounts for."""


class LogChanged(StoreError):
    """The log has another number of partitions than the one that the store was folded over."""


class ArchiveError(JobtrailError):
    """An archive of the log is damaged, of another log, or can't be read or written."""


class AlreadyRunning(JobtrailError):
    """Another service is running on the same data directory."""


class NotRunning(JobtrailError):
    """No local service was found."""


class StoreNotReady(StoreError):
    """There is no projection to answer from yet; a projector is about to make it."""

    retriable = True
