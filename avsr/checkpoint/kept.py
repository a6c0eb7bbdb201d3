"""Models that the program keeps under a name: what `avsr fetch` downloaded, and the lips that `avsr enrol` learnt.

    name -> folder
Fetched models lie in the cache and can be fetched again. Enrolled lips are personal data that exist once, so they lie in the
user's data folder.
"""

from __future__ import annotations

from pathlib import Path

from avsr.assets import cache_folder, data_folder
from avsr.names import file_name


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
