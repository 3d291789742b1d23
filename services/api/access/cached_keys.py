"""The API keys as a process knows them: its file is read again when it has changed.

A file that is damaged is no reason not to serve those who come without a key. It stays as it is,
since somebody may want to mend it, and until then nobody can say whether a key is one of ours.
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
        interval: Seconds between two looks whether it has changed.

    Raises:
        SettingError: Others can reach the file, or it can't be read.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self._path = path
        self._interval = interval
        # Before the keys: what is written in between is seen at the next look.
        self._version = self._file_version()
        #: Whether no keys were ever read, since the file is damaged.
        self.unknown = False
        self._keys: dict[str, ApiKey] = {}
        try:
            self._keys = {key.id: key for key in read_keys(path)}
        except KeysDamaged as error:
            self.unknown = True
            logger.error("action=keys-damaged kept=0 %s", error)
        self._check_at = monotonic() + interval
        #: Of the file that could not be read last.
        self._refused: _FileVersion | None = None

    def find(self, text: str) -> ApiKey | None:
        """Return what is known of a key, None where it is not one of ours."""
        parts = split_key(text)
        if parts is None:
            return None
        key_id, secret = parts
        key = self._current().get(key_id)
        return key if key is not None and key.is_proved_by(secret) else None

    def has(self, key_id: str) -> bool:
        """Tell whether a key has not been revoked."""
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
            # It is read again at the next look, changed or not: a key may have been revoked.
            if version != self._refused:
                logger.error("action=keys-not-read kept=%d %s", len(self._keys), error)
            self._refused = version
        else:
            self._keys, self._version, self._refused = keys, version, None
            self.unknown = False
            logger.info("action=keys-read keys=%d", len(keys))
