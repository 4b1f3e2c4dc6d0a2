"""What the readers read: a file or a member of an archive, decompressed on the way."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import FileFormatError, InputError

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Source:
    """A file to read, or with `data` the content of one that `path` only names (a member of an archive)."""

    path: Path
    data: bytes | None = None

    @classmethod
    def of(cls, source: str | Path | Source) -> Source:
        return source if isinstance(source, Source) else cls(Path(source))

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content from its beginning, gunzipped if it begins as gzip files do, whatever the name.

        Raises
        ------
        InputError : no such file, a folder, or a file that can't be opened.
        FileFormatError : in the block, on reading a gzip file that is cut off or damaged.
        """
        with self._raw() as raw:
            start = raw.read(2)
            raw.seek(0)
            if start != _GZIP_MAGIC:
                yield raw
                return
            try:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield cast(BinaryIO, stream)
            except EOFError:
                raise FileFormatError(
                    self.path, "Expected a whole gzip file, but it is cut off. Fetch or write it again."
                ) from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise FileFormatError(self.path, f"Expected a gzip file, but it is damaged ({error}).") from None

    def _raw(self) -> BinaryIO:
        if self.data is not None:
            return io.BytesIO(self.data)
        check_file(self.path)
        try:
            return self.path.open("rb")
        except OSError as error:
            raise InputError(f"Can't read {self.path}: {error.strerror or error}.") from error


def check_file(path: Path) -> None:
    """Raise InputError unless `path` is a file."""
    if path.is_dir():
        raise InputError(f"Expected a file, but {path} is a folder.")
    if not path.exists():
        raise InputError(f"Expected a file at {path}, but there is none.")


@contextlib.contextmanager
def content_of(path: Path) -> Iterator[None]:
    """Turn an InputError about what was read from `path` into a FileFormatError that names it."""
    try:
        yield
    except FileFormatError:
        raise
    except InputError as error:
        raise FileFormatError(path, str(error)) from error


def gzip_writer(stream: BinaryIO) -> gzip.GzipFile:
    """A gzip stream whose bytes depend on nothing but what is written: no name, no time."""
    return gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=6, mtime=0)
