"""Archives (.zip, .tar.gz): their members, whether it is safe to unpack them, and unpacking.

    archive -> members, each with its path and size -> files, each whole or not there
Nothing is written before all members are known to stay within the folder.
"""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from avsr.errors import BadDownload
from avsr.output import whole_file

JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")
RECORDS_FOLDER = ".fetched"                                            # the folder of our records, see records.py
# Errors of the standard library for an archive that is damaged or packed in an unknown way.
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Member:
    """A file of an archive. name: its name there. path: where it is unpacked to, relative to the folder. size: its bytes."""

    name: str
    path: str
    size: int


def members(archive: Path, *, leading: str | None = None, keep: str | None = None, loose: str = "") -> list[Member]:
    """The files to unpack, all of which stay within the folder.

    leading, keep: see Source. loose: the folder for the files of an archive without folders. Raises BadDownload for a damaged
    archive, and for one with a member that must not be unpacked.
    """
    with _report_damage(archive):
        found = list(_zip_entries(archive) if archive.suffix == ".zip" else _tar_entries(archive))
    out: dict[str, Member] = {}
    flat = all("/" not in name.strip("/") for name, _, _ in found)
    for name, size, problem in found:
        if (parts := _parts(name)) is None or problem:
            problem = problem or "leads out of the folder"
            raise BadDownload(f"{archive.name}: holds {name!r}, which {problem}.  Nothing of it was unpacked: download it "
                              "by hand and unpack it into FOLDER without that file; tell its publisher.",
                              f"holds {name!r}, which {problem}")
        if any(part in JUNK for part in parts):
            continue
        parts = [loose, *parts] if flat and loose else parts[1:] if leading and fnmatchcase(parts[0], leading) else parts
        path = "/".join(parts)
        if not path or (keep and not re.fullmatch(keep, path)):
            continue
        if path in out:
            raise BadDownload(f"{archive.name}: holds {path!r} twice.  Nothing of it was unpacked: download it by "
                              "hand and unpack one of the two into FOLDER; tell its publisher.")
        out[path] = Member(name, path, size)
    if not out:
        raise BadDownload(f"{archive.name}: holds no file that is wanted ({len(found)} others).  Try again later, or "
                          "download it by hand and unpack it into FOLDER; tell its publisher.")
    return list(out.values())


def test(archive: Path) -> None:
    """Check a zip, for which no checksum is published, against its own check sums. Raises BadDownload.

    A .tar.gz was already checked when `members` read its names.
    """
    with _report_damage(archive):
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                if bad := file.testzip():
                    raise zipfile.BadZipFile(f"{bad} has another check sum")


def unpack(archive: Path, folder: Path, wanted: list[Member], report: Callable[[int], None]) -> None:
    """Write the wanted members into a folder. report: called with the bytes written. Raises BadDownload, OSError."""
    by_name, done = {member.name: member for member in wanted}, 0
    with _report_damage(archive):
        for name, stream in _streams(archive, by_name):
            member = by_name[name]
            target = folder / member.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(stream, target, member.size)
            done += member.size
            report(done)


def _write(stream: IO[bytes], target: Path, size: int) -> None:
    """Write one member. Raises EOFError if it has another size than the archive says."""
    with whole_file(target, alone=True) as fresh:
        with fresh.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        if (found := fresh.stat().st_size) != size:
            raise EOFError(f"{target.name} has {found} bytes, its list says {size}")


def _parts(name: str) -> list[str] | None:
    """The parts of a path; None if it is absolute, leads upwards, names a drive, or would change our records."""
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    unsafe = plain.startswith("/") or ".." in parts or "\0" in plain or not parts
    return None if unsafe or re.match(r"[A-Za-z]:", parts[0]) or parts[0] == RECORDS_FOLDER else parts


def _zip_entries(archive: Path) -> Iterator[tuple[str, int, str | None]]:
    """The name and size of each entry, and what is wrong with it if it is neither a file nor a folder."""
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            problem = "is a link" if kind == stat.S_IFLNK else "is encrypted" if info.flag_bits & 1 else \
                "is no plain file" if kind not in (0, stat.S_IFREG, stat.S_IFDIR) else None
            # orig_filename is the stored name; zipfile cuts `filename` at a zero byte.
            if problem or not info.is_dir() or _parts(info.orig_filename) is None:
                yield info.orig_filename, info.file_size, problem


def _tar_entries(archive: Path) -> Iterator[tuple[str, int, str | None]]:
    for info, _ in _tar(archive):
        problem = "is a link" if info.issym() or info.islnk() else None if info.isreg() or info.isdir() else "is no plain file"
        if problem or info.isreg() or (_parts(info.name) is None and info.name != "."):
            yield info.name, info.size, problem


def _tar(archive: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """All entries of a .tar.gz, which is read to its end, where gzip compares the check sum."""
    with gzip.open(archive) as plain:
        with tarfile.open(fileobj=plain, mode="r|") as file:
            for info in file:
                yield info, file
        while plain.read(1 << 20):
            pass


def _streams(archive: Path, wanted: dict[str, Member]) -> Iterator[tuple[str, IO[bytes]]]:
    """The name and the bytes of each wanted member, in the order of the archive."""
    if archive.suffix != ".zip":
        for info, file in _tar(archive):
            if info.name in wanted and info.isreg() and (stream := file.extractfile(info)) is not None:
                yield info.name, stream
        return
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.orig_filename in wanted:
                with file.open(info) as stream:
                    yield info.orig_filename, stream


@contextmanager
def _report_damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except BadDownload:
        raise
    except ARCHIVE_ERRORS as error:
        problem = f"the archive is damaged ({str(error) or type(error).__name__})"
        raise BadDownload(f"{archive.name}: {problem}.  Run again to fetch it anew.", problem) from error
