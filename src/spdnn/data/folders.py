"""The folders data come from: the user's own (SPDNN_DATA) and the cache (SPDNN_CACHE)."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError


def user_folder() -> Path | None:
    """The folder named by SPDNN_DATA, which spdnn only reads. Raises InputError where it isn't a folder."""
    name = os.environ.get("SPDNN_DATA")
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f"Expected SPDNN_DATA to name a folder, but {folder} is none. Correct or unset it.")
    return folder


def cache_folder() -> Path:
    """The folder spdnn keeps downloads and computed inputs in: SPDNN_CACHE, or the system's cache folder."""
    name = os.environ.get("SPDNN_CACHE")
    if name:
        return Path(name).expanduser()
    import pooch

    return Path(pooch.os_cache("spdnn"))
