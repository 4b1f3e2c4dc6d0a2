"""A write that fails leaves what was there before, and nothing else."""

from __future__ import annotations

import os
import stat

import pytest

from spdnn import InputError
from spdnn.io.atomic import atomic_write


def test_replaces_the_file_when_the_block_ends(tmp_path):
    path = tmp_path / "a" / "file.txt"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("one")
        assert not path.exists()
    with atomic_write(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_keeps_the_old_file_on_any_exception(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_keeps_the_old_file_when_the_rename_fails(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_keeps_permissions(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    mask = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "new.txt") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o644


def test_refuses_a_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder"), atomic_write(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Can't write"), atomic_write(tmp_path / "file" / "x"):
        pass
