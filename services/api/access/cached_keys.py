"""The API keys of a process, read again when their file has changed.

With a damaged file, requests with tokens are served all the same. The file is left as it is for the
operator to repair; until then no key can be verified.
"""

from __future__ import annotations

import logging
from pathlib import Path
from time import monotonic

from jobtrail.access.api_keys import ApiKey, KeysDamaged, read_keys, split_key
from jobtrail.core.errors import SettingError

logger = logging.getLogger(__name__)

_FileVersion = tuple[int, int, int]


class ApiKeys:
    """Finds API keys.

    Args:
        path: Their file.
        interval: Seconds between two checks whether it has changed.

    Raises:
        SettingError: Other users can access the file, or it can't be read.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self._path = path
        self._interval = interval
        # Before the keys are read: a change in between is found at the next check.
        self._version = self._file_version()
        #: Whether the file is damaged, and no keys were ever read from it.
        self.unknown = False
        self._keys: dict[str, ApiKey] = {}
        try:
            self._keys = {key.id: key for key in read_keys(path)}
        except KeysDamaged as error:
            self.unknown = True
            logger.error("action=keys-damaged kept=0 %s", error)
        self._check_at = monotonic() + interval
        #: The version of the file that last could not be read.
        self._refused: _FileVersion | None = None

    def find(self, text: str) -> ApiKey | None:
        """Return the API key that a text is, or None."""
        parts = split_key(text)
        if parts is None:
            return None
        key_id, secret = parts
        key = self._current().get(key_id)
        return key if key is not None and key.is_proved_by(secret) else None

    def has(self, key_id: str) -> bool:
        """Tell whether a key exists and has not been revoked."""
        return key_id in self._current()

    def _current(self) -> dict[str, ApiKey]:
        now = monotonic()
        if now >= self._check_at:
            self._check_at = now + self._interval
            self._read_changes()
        return self._keys

    def _file_version(self) -> _FileVersion | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read_changes(self) -> None:
        version = self._file_version()
        if version == self._version:
            return
        try:
            keys = {key.id: key for key in read_keys(self._path)}
        except SettingError as error:
            # Tried again at the next check, even if unchanged: a key may have been revoked.
            if version != self._refused:
                logger.error("action=keys-not-read kept=%d %s", len(self._keys), error)
            self._refused = version
        else:
            self._keys, self._version, self._refused = keys, version, None
            self.unknown = False
            logger.info("action=keys-read keys=%d", len(keys))
