"""Archives (.zip, .tar.gz): what they hold, whether it is safe to unpack, and unpacking what is missing.

    archive -> members: where each would lie and how many bytes it has -> files, each whole or not there
Nothing is written before every member is known to stay within the folder.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import replace
from pathlib import Path
from typing import IO

from avsr.errors import BadDownload

JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")
OWN = ".fetched"                                            # a folder of ours, see records.py
# What the standard library raises where an archive is damaged, or packed in a way that it does not know.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Member:
    """A file within an archive. name: there; path: below the folder it is unpacked into; size: bytes, unpacked."""

    name: str
    path: str
    size: int


def members(archive: Path, *, leading: str | None = None, keep: str | None = None, loose: str = "") -> list[Member]:
    """What would be unpacked, checked to stay within the folder.

    leading, keep: see Source; loose: the folder for files of an archive that has no folders at all.
    Raises BadDownload for a damaged archive, and for one with a member that has no place in a folder of data.
    """
    with _damage_reported(archive):
        found = list(_zip_entries(archive) if archive.suffix == ".zip" else _tar_entries(archive))
    out: dict[str, Member] = {}
    flat = all("/" not in name.strip("/") for name, _, _ in found)
    for name, size, problem in found:
        parts = _parts(name)
        problem = problem or (None if parts is not None else "leads out of the folder")
        if problem:
            raise BadDownload(f"{archive.name}: holds {name!r}, which {problem}.  Nothing of it was unpacked; tell its "
                              "publisher.", f"holds {name!r}, which {problem}")
        if any(part in JUNK for part in parts):
            continue
        parts = [loose, *parts] if flat and loose else parts[1:] if leading and fnmatchcase(parts[0], leading) else parts
        path = "/".join(parts)
        if not path or (keep and not re.fullmatch(keep, path)):
            continue
        if path in out:
            raise BadDownload(f"{archive.name}: holds {path!r} twice.  Nothing of it was unpacked; tell its publisher.")
        out[path] = Member(name, path, size)
    if not out:
        raise BadDownload(f"{archive.name}: holds no file that is wanted ({len(found)} others).  Tell its publisher.")
    return list(out.values())


def test(archive: Path) -> None:
    """Read a zip in full against its own check sums, for want of a published one. Raises BadDownload.

    Reading the names of a .tar.gz, as `members` does, already tests all of it.
    """
    with _damage_reported(archive):
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                if bad := file.testzip():
                    raise zipfile.BadZipFile(f"{bad} has another check sum")


def unpack(archive: Path, folder: Path, wanted: list[Member], told: Callable[[int], None]) -> None:
    """Write the wanted members below `folder`; `told` hears how many bytes are written. Raises BadDownload, OSError."""
    by_name, done = {member.name: member for member in wanted}, 0
    with _damage_reported(archive):
        for name, stream in _streams(archive, by_name):
            member = by_name[name]
            target = folder / member.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(stream, target, member.size)
            done += member.size
            told(done)


def _write(stream: IO[bytes], target: Path, size: int) -> None:
    """The file gets its name when it is whole. Until then it is hidden, so that readers of corpora leave it out."""
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        if part.stat().st_size != size:
            raise EOFError(f"{target.name} has {part.stat().st_size} bytes, its list says {size}")
        replace(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _parts(name: str) -> list[str] | None:
    """The path's parts, or None where it is absolute, goes up, names a drive, or would meddle with our own notes."""
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    unsafe = plain.startswith("/") or ".." in parts or "\0" in plain or not parts
    return None if unsafe or re.match(r"[A-Za-z]:", parts[0]) or parts[0] == OWN else parts


def _zip_entries(archive: Path) -> Iterator[tuple[str, int, str | None]]:
    """Name, size and, where it is neither file nor folder, what is wrong with it."""
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            problem = "is a link" if kind == stat.S_IFLNK else "is encrypted" if info.flag_bits & 1 else \
                "is no plain file" if kind not in (0, stat.S_IFREG, stat.S_IFDIR) else None
            # orig_filename: the name as stored, while zipfile cuts `filename` at a zero byte.
            if problem or not info.is_dir() or _parts(info.orig_filename) is None:
                yield info.orig_filename, info.file_size, problem


def _tar_entries(archive: Path) -> Iterator[tuple[str, int, str | None]]:
    for info, _ in _tar(archive):
        problem = "is a link" if info.issym() or info.islnk() else None if info.isreg() or info.isdir() else "is no plain file"
        if problem or info.isreg() or (_parts(info.name) is None and info.name != "."):
            yield info.name, info.size, problem


def _tar(archive: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Every entry of a .tar.gz. It is read to its very end, where the check sum is that gzip compares."""
    with gzip.open(archive) as plain:
        with tarfile.open(fileobj=plain, mode="r|") as file:
            for info in file:
                yield info, file
        while plain.read(1 << 20):
            pass


def _streams(archive: Path, wanted: dict[str, Member]) -> Iterator[tuple[str, IO[bytes]]]:
    """Each wanted member's bytes, in the order of the archive."""
    if archive.suffix != ".zip":
        for info, file in _tar(archive):
            if info.name in wanted and info.isreg():
                yield info.name, file.extractfile(info)
        return
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.orig_filename in wanted:
                with file.open(info) as stream:
                    yield info.orig_filename, stream


@contextmanager
def _damage_reported(archive: Path) -> Iterator[None]:
    try:
        yield
    except BadDownload:
        raise
    except DAMAGE as error:
        problem = f"the archive is damaged ({str(error) or type(error).__name__})"
        raise BadDownload(f"{archive.name}: {problem}.  Run again to fetch it anew.", problem) from error
