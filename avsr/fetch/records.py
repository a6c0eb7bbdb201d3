"""Records: which parts of a folder are complete, with the files of each part and their sizes.

    FOLDER/.fetched/s1.json      written when a part is unpacked: its files with their sizes, its source and licence
    FOLDER/.fetched/s1.zip       the downloaded and checked archive, until then; a partial one is that of download/partial.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from avsr.download import Remote
from avsr.fetch.archives import RECORDS_FOLDER, Member
from avsr.fetch.source import Source
from avsr.output import whole_file


def records_folder(folder: Path) -> Path:
    """The folder of the records and archives. It is hidden, so that readers of corpora skip it."""
    return folder / RECORDS_FOLDER


def files_of(folder: Path, part: str) -> list[Member] | None:
    """The files of a part that was unpacked before; None if it was not."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((records_folder(folder) / f"{part}.json").read_text(encoding="utf-8"))
        return [Member(path, path, size) for path, size in record["files"]]
    return None


def checksum_of_part(folder: Path, part: str) -> str | None:
    """The sha256 of the file from which a part was made, `sha256:...`, whether or not it is still there; None if not noted."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        checksum = json.loads((records_folder(folder) / f"{part}.json").read_text(encoding="utf-8"))["archive"]["checksum"]
        return checksum if checksum.startswith("sha256:") else None
    return None


def replace_files(folder: Path, part: str, files: Iterable[str]) -> None:
    """Note that other files of the folder, given by their names, have taken the place of those of a part."""
    path = records_folder(folder) / f"{part}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["files"] = [[name, (folder / name).stat().st_size] for name in files]
    with whole_file(path, alone=True, sync=True) as fresh:
        fresh.write_text(json.dumps(record, indent=1), encoding="utf-8")


def missing(folder: Path, files: Iterable[Member]) -> list[Member]:
    """The files that do not exist or have another size."""
    return [file for file in files if _size(folder / file.path) != file.size]


def write_record(folder: Path, part: str, source: Source, remote: Remote, files: list[Member]) -> None:
    """Write the record of a part whose files are all unpacked."""
    record = {"source": source.name, "licence": source.licence, "terms": source.terms, "cite": source.cite,
              "archive": asdict(remote), "files": [[file.path, file.size] for file in files]}
    with whole_file(records_folder(folder) / f"{part}.json", alone=True, sync=True) as fresh:
        fresh.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size if path.is_file() else None
    return None
