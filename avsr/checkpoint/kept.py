"""Models that the program keeps under a name: what `avsr fetch` downloaded, and the lips that `avsr enrol` learnt.

    name -> folder
Fetched models lie in the cache and can be fetched again. Enrolled lips are personal data that exist once, so they lie in the
user's data folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from avsr.assets import MissingAsset, cache_folder
from avsr.names import file_name


def data_folder() -> Path:
    """The folder of what the user made: AVSR_DATA, else `avsr` in the user's data folder. It may not exist yet."""
    if folder := os.environ.get("AVSR_DATA"):
        return Path(folder).expanduser()
    if base := os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA"):
        return Path(base) / "avsr"
    try:
        return Path.home() / ".local" / "share" / "avsr"
    except RuntimeError:                                    # a user of a container, without a name or HOME
        raise MissingAsset("AVSR_DATA: not set, and this user has no home folder.  Set it to a folder.") from None


def fetched_folder(name: str) -> Path:
    """Where a fetched model lies, or would: `vsr-lrs3`, or `owner/repository:file` of the hub."""
    return cache_folder() / file_name(name)


def enrolled_folder(name: str) -> Path:
    """Where the lips of a person lie, or would."""
    return data_folder() / "lips" / file_name(name)


def kept_folder(name: str) -> Path | None:
    """The folder of the model that is kept under this name: enrolled lips first, then what was fetched; None for neither."""
    for folder in (enrolled_folder(name), fetched_folder(name)):
        if (folder / "model.json").is_file():
            return folder
    return None
