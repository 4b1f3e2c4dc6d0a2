"""Writing files so that an error, Ctrl-C or a power cut leaves what was there before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file that becomes `path` when the block ends without an exception.

    The temporary file lies in the same folder (made where it is missing), is flushed to the disk and then
    renamed over `path`. On any exception, KeyboardInterrupt included, it is removed and `path` stays as it was.

        with atomic_write("weights.bin") as temporary:
            temporary.write_bytes(data)

    Raises
    ------
    InputError : `path` is a folder, or its folder can't be made or written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"Expected a file to write, but {path} is a folder. Name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"Can't write {path}: one of the folders it should be in is a file.") from None
    except OSError as error:
        raise InputError(f"Can't write {path}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        temporary.chmod(_mode(path))
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _mode(path: Path) -> int:
    """The permissions `path` has, or those an ordinary new file would get."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk. Folders can't be opened on Windows; there the rename has to do."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
