"""One call of `avsr fetch`: the parts that are lacking are downloaded, checked and unpacked, one archive at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avsr.download import Remote, arrived_bytes, checksum_of, download, drop, free_bytes, is_right, tell_bytes, why_not_stored
from avsr.errors import AvsrError, BadDownload, BadOutput
from avsr.fetch import archives, records
from avsr.fetch.hub import announced
from avsr.fetch.source import Source
from avsr.fetch.sources import choose, source_of
from avsr.fetch.zenodo import read_record
from avsr.output import locked
from avsr.runtime import Progress, no_progress


@dataclass(frozen=True)
class Fetched:
    """What the folder has after a call.

    parts: the requested parts. fresh: those that this call downloaded or completed. notes: what the user should know.
    n_files, n_bytes: the unpacked files of all requested parts.
    """

    source: Source
    folder: Path
    parts: tuple[str, ...]
    fresh: tuple[str, ...]
    n_files: int
    n_bytes: int
    notes: tuple[str, ...]


def fetch(name: str, folder: str | Path, *, speakers: str | None = None, parts: Sequence[str] = (),
          accept_licence: bool = False, progress: Progress = no_progress) -> Fetched:
    """See avsr.fetch."""
    source, folder = source_of(name), Path(folder)
    wanted, notes = choose(source, tuple(parts), speakers)
    if source.must_agree and not accept_licence:
        raise AvsrError(f"{name}: its terms have to be agreed to: {source.licence}.  Read {source.terms}, then run again with "
                        "--accept-licence.")
    if folder.exists() and not folder.is_dir():
        raise BadOutput(f"{folder}: this is a file, and {name} is many.  Name a folder, which is made where it is not there.")
    try:
        records.records_folder(folder).mkdir(parents=True, exist_ok=True)
        with locked(folder, "avsr fetch"):
            todo = [part for part in wanted if _is_lacking(source, folder, part)]
            if todo:
                remotes = _remotes(source, todo, accept_licence)
                _check_room(source, folder, remotes)
                _each(remotes, lambda part: _get(source, part, remotes[part], folder, progress))
    except OSError as error:
        where = error.filename2 or error.filename or folder
        raise BadOutput(f"{where}: cannot be stored ({why_not_stored(error)}).  Make room or choose another folder; run again "
                        "to go on from there.") from error
    files = [file for part in wanted for file in records.files_of(folder, part) or ()]
    return Fetched(source, folder, tuple(wanted), tuple(todo), len(files), sum(file.size for file in files), tuple(notes))


def _is_lacking(source: Source, folder: Path, part: str) -> bool:
    """Whether a part must be downloaded or completed. The archive of a complete part is removed."""
    files = records.files_of(folder, part)
    if files is None or records.missing(folder, files):
        return True
    drop(records.records_folder(folder) / source.parts[part])
    return False


def _remotes(source: Source, parts: list[str], accept_licence: bool) -> dict[str, Remote]:
    """The archives of the parts. Raises BadDownload, and AvsrError if the licence is not the known one."""
    files = source.files
    if source.record is not None:
        record = read_record(source.record)
        files = record.files
        if record.licence and record.licence.lower() not in source.licence_ids and not accept_licence:
            raise AvsrError(f"{source.name}: its record gives licence {record.licence}, and {source.licence} was known.  "
                            f"Read it at {record.address}, then run again with --accept-licence.")
    if absent := [source.parts[part] for part in parts if source.parts[part] not in files]:
        problem = f"the record {source.record} has no file {absent[0]}"
        raise BadDownload(f"{source.name}: {problem} (it has {len(files)}).  Leave that part out.", problem)
    return {part: announced(files[source.parts[part]]) for part in parts}


def _check_room(source: Source, folder: Path, remotes: dict[str, Remote]) -> None:
    """Check the room on the disk before the first byte: for one archive at a time, and at least as much for its files.

    The exact size of the files is known from the list of the archive, and checked in _get. Raises BadOutput.
    """
    to_come, largest = 0, 0
    for part, remote in remotes.items():
        archive = records.records_folder(folder) / source.parts[part]
        size, files = remote.size or 0, records.files_of(folder, part)
        if archive.exists():                                # its list tells later how much is still to be unpacked
            continue
        largest = max(largest, size - arrived_bytes(archive))
        unpacked = 0 if source.keep else size
        to_come += unpacked if files is None else sum(file.size for file in records.missing(folder, files))
    _refuse_if_full(folder, largest + to_come, f"{len(remotes)} archives of {source.name} and what is in them")


def _refuse_if_full(folder: Path, needed: int, what: str) -> None:
    if (free := free_bytes(folder)) < needed:
        raise BadOutput(f"{folder}: {what} need {_megabytes(needed)}, and the disk has room for {_megabytes(free)}.  Make "
                        "room, choose another folder, or fetch less at a time.")


def _each(remotes: dict[str, Remote], get: Callable[[str], None]) -> None:
    """Get every part. A bad archive does not stop the others, but a failing network does. Raises BadDownload after the last."""
    failed: dict[str, BadDownload] = {}
    for part in remotes:
        try:
            get(part)
        except BadDownload as error:
            if error.network or len(remotes) == 1:
                raise
            failed[part] = error
    if failed:
        first = next(iter(failed.values()))
        raise BadDownload(f"{len(failed)} of {len(remotes)} parts failed ({', '.join(failed)}).  {first}", first.problem)


def _get(source: Source, part: str, remote: Remote, folder: Path, progress: Progress) -> None:
    """Download and check the archive of a part, unpack its files, and write the record that they are complete."""
    if source.kind == "model" and not remote.name.endswith(".zip"):
        path = download(remote, folder / remote.name, progress=progress)
        remote = _as_first_fetched(folder, part, remote, path)
        records.write_record(folder, part, source, remote, [archives.Member(remote.name, remote.name, path.stat().st_size)])
        return
    archive = records.records_folder(folder) / source.parts[part]
    if archive.exists() and not is_right(remote, archive, progress=progress):
        archive.unlink()
    if not archive.exists():
        download(remote, archive, progress=progress)
    try:
        files = archives.members(archive, leading=source.leading, keep=source.keep, loose=part if source.speakers else "")
        if remote.checksum is None:
            archives.test(archive)
        lacking = records.missing(folder, files)
        size = sum(file.size for file in lacking)
        if source.kind == "model":
            remote = _as_first_fetched(folder, part, remote, archive)
        _refuse_if_full(folder, size, f"the {len(lacking)} files of {remote.name}")
        archives.unpack(archive, folder, lacking, lambda done: tell_bytes(progress, f"unpacking {remote.name}", done, size))
    except BadDownload:
        archive.unlink()
        raise
    records.write_record(folder, part, source, remote, files)
    drop(archive)


def _as_first_fetched(folder: Path, part: str, remote: Remote, path: Path) -> Remote:
    """The file with its sha256, which is held to from the first fetch on. Raises BadDownload where it has changed since."""
    found, before = checksum_of(path, "sha256"), records.checksum_of_part(folder, part)
    if before is not None and before != found:
        path.unlink()
        problem = (f"it is not what was fetched first (sha256 begins {found.removeprefix('sha256:')[:12]}, then "
                   f"{before.removeprefix('sha256:')[:12]})")
        raise BadDownload(f"{remote.name}: {problem}.  It was deleted; if you trust the new file, delete "
                          f"{records.records_folder(folder)} and run again.", problem)
    return replace(remote, checksum=found)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
