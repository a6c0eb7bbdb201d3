"""What of a folder is known to be whole: a small record for each part, and the sizes of the files that it names.

    FOLDER/.fetched/s1.json      written when all of a part is unpacked: its files with their sizes, its source and licence
    FOLDER/.fetched/s1.zip       the archive, whole and checked, until then; while it arrives, see download/partial.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from avsr.download import Remote
from avsr.errors import AvsrError
from avsr.fetch.archives import OWN, Member
from avsr.fetch.sources import Source

try:
    import fcntl
except ImportError:                                         # Windows
    fcntl = None


def records_folder(folder: Path) -> Path:
    """Where the records and archives of a folder lie. Hidden, so that readers of corpora leave it out."""
    return folder / OWN


def files_of(folder: Path, part: str) -> list[Member] | None:
    """The files of a part that was unpacked once, or None."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((records_folder(folder) / f"{part}.json").read_text(encoding="utf-8"))
        return [Member(path, path, size) for path, size in record["files"]]
    return None


def missing(folder: Path, files: Iterable[Member]) -> list[Member]:
    """Those that are not there, or have another size."""
    return [file for file in files if _size(folder / file.path) != file.size]


def write_record(folder: Path, part: str, source: Source, remote: Remote, files: list[Member]) -> None:
    """Write the record of a part of which every file is unpacked."""
    record = {"source": source.name, "licence": source.licence, "terms": source.terms, "cite": source.cite,
              "archive": asdict(remote), "files": [[file.path, file.size] for file in files]}
    path = records_folder(folder) / f"{part}.json"
    fresh = path.with_name(f".{path.name}.part")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, because two processes would overwrite each other's files. The lock ends with the process.

    Raises AvsrError where another process holds it.
    """
    records_folder(folder).mkdir(parents=True, exist_ok=True)
    with (records_folder(folder) / "lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AvsrError(f"{folder}: another avsr fetch is at work in it.  Wait for it, or choose another "
                                "folder.") from error
            except OSError:                                 # a mount that knows no locks
                pass
        yield


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size if path.is_file() else None
    return None
