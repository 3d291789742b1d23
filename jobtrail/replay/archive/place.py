"""Where an archive lies: a folder, or a bucket of an S3-compatible store, used in the same way.

Whatever gets a name of its own there is whole: it is written under a draft's name first, and
renamed (in a folder) or copied (by the store itself) when it is complete.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

import pyarrow as pa
from pyarrow import fs

from jobtrail.core.errors import ArchiveError, UsageError
from jobtrail.files.atomic import sync

#: The folder of drafts. What an interrupted run left there is deleted when it is a day old: nobody
#: writes at one file for so long without adding to it.
DRAFTS: Final = "drafts"
_FORGOTTEN_AFTER: Final = 86_400.0


class Found(NamedTuple):
    """A file that was found."""

    size: int
    #: Seconds since it was last written to.
    age: float

    @property
    def forgotten(self) -> bool:
        """Whether it is so old that nobody is still at work on it."""
        return self.age > _FORGOTTEN_AFTER


class ArchiveStore:
    """The files below one folder or prefix, by names with `/` between.

    Args:
        files: The file system.
        root: The folder in it.
        location: What the user calls it.
    """

    def __init__(self, files: fs.FileSystem, root: str, location: str) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._local = isinstance(files, fs.LocalFileSystem)
        self.location = location

    @classmethod
    def open(cls, location: str) -> Self:
        """Find a folder, or a prefix of a bucket by `s3://bucket/prefix`.

        What reaches the store is named as for every client of S3: `AWS_ACCESS_KEY_ID`,
        `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_DEFAULT_REGION`, or in the
        location: `s3://KEY:SECRET@bucket/prefix?endpoint_override=HOST:PORT&scheme=http&region=R`.

        Raises:
            UsageError: It is another kind of location.
            ArchiveError: The store does not answer.
        """
        if "://" not in location:
            return cls(fs.LocalFileSystem(), str(Path(location).absolute()), location)
        if not location.startswith("s3://"):
            raise UsageError(
                "There is no such kind of archive.",
                expected="a folder, or s3://bucket/prefix",
                found=location,
            )
        # No message shows a key that stands in the location.
        bucket = location.removeprefix("s3://").partition("?")[0]
        shown = f"s3://{bucket.rpartition('@')[2]}"
        with _said(shown):
            try:
                files, root = fs.S3FileSystem.from_uri(location)
            except pa.ArrowInvalid as error:
                found = str(error).replace(location, shown)
                raise UsageError("That is no location.", where=shown, found=found) from None
        return cls(files, root, shown)

    def place(self, name: str) -> str:
        """Return how a user would call a file."""
        return f"{self.location.rstrip('/')}/{name}"

    def names(self, folder: str = "") -> dict[str, Found]:
        """Return all files, or those below one folder."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        with _said(self.place(folder)):
            found = self._files.get_file_info(selector)
        now, skip = time.time(), len(self._root) + 1
        return {
            info.path[skip:]: Found(info.size, now - info.mtime.timestamp())
            for info in found
            if info.type == fs.FileType.File
        }

    def read(self, name: str) -> bytes:
        """Return a small file.

        Raises:
            FileNotFoundError: There is none.
            ArchiveError: It can't be read.
        """
        with _said(self.place(name)), self._files.open_input_stream(self._path(name)) as file:
            whole: bytes = file.read()
        return whole

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[pa.NativeFile]:
        """Open a file for reading at any place.

        Raises:
            FileNotFoundError: There is none.
            ArchiveError: It can't be read.
        """
        with _said(self.place(name)), self._files.open_input_file(self._path(name)) as file:
            yield file

    @contextlib.contextmanager
    def draft(self) -> Iterator[tuple[str, pa.NativeFile]]:
        """Yield the name of a new draft, and where to write it; it is on the disk afterwards."""
        name = f"{DRAFTS}/{uuid.uuid4().hex}"
        with _said(self.place(name)):
            if self._local:
                self._files.create_dir(self._path(DRAFTS), recursive=True)
            try:
                with self._files.open_output_stream(self._path(name)) as file:
                    yield name, file
            except BaseException:
                # A store has what was written until then, as if it were all.
                self.delete(name)
                raise
            if self._local:
                sync(Path(self._path(name)))

    def publish(self, draft: str, name: str) -> None:
        """Give a complete draft its name; a file that had it is replaced in one step."""
        with _said(self.place(name)):
            if not self._local:
                self._files.move(self._path(draft), self._path(name))
                return
            target = Path(self._path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(self._path(draft)).replace(target)
            sync(target.parent)
            sync(target.parent.parent)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file in one step."""
        with self.draft() as (draft, file):
            file.write(content)
        self.publish(draft, name)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        with _said(self.place(name)), contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


@contextlib.contextmanager
def _said(where: str) -> Iterator[None]:
    """Say what a folder or store answers as an error of ours, but for a missing file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArchiveError(
            "The archive can't be used.",
            where=where,
            found=str(error),
            hint="Is the place there, with leave to read and write, and do the AWS_* variables "
            "name the right store?"
            if where.startswith("s3://")
            else "Is the folder there, with leave to read and write, and room on the disk?",
        ) from error
