"""The downloader of all files with a known checksum: model files, corpora, noise.

    Remote (address, published size and checksum) -> the file on disk, whole and checked
http.py makes requests, follows redirects and tries again; partial.py keeps what has arrived of a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from avsr.download import http, partial
from avsr.download.http import Remote
from avsr.errors import BadDownload
from avsr.runtime import Progress, no_progress

__all__ = ["Remote", "arrived_bytes", "checksum_of", "download", "drop", "free_bytes", "is_right", "read", "tell_bytes",
           "why_not_stored"]


def download(remote: Remote, target: Path, *, progress: Progress = no_progress) -> Path:
    """Download `remote` to `target`, beginning where an earlier call stopped; returns `target`.

    The file gets its name only when it is whole and its checksum is right. If two processes ask for the same target, one
    waits for the other. progress: counts bytes. Raises BadDownload, and OSError if the file cannot be stored.
    """
    target.parent.mkdir(parents=True, exist_ok=True)

    def tell(stage: str, done: int, total: int | None) -> None:
        tell_bytes(progress, f"{stage} {remote.name}", done, total)

    with partial.locked(target, lambda done: tell("downloading", done, remote.size)) as part:
        if part is not None:
            resumed = partial.fill(remote, part, lambda done, total: tell("downloading", done, total))
            if resumed and not is_right(remote, part, progress=progress):
                partial.forget(part)                        # a power cut may have damaged the kept bytes: start again
                partial.fill(remote, part, lambda done, total: tell("downloading", done, total))
            if not is_right(remote, part, progress=progress):
                raise _another_file(remote, part)
            os.replace(part, target)
            partial.notes_of(part).unlink(missing_ok=True)
    return target


def arrived_bytes(target: Path) -> int:
    """The number of bytes of a file that an earlier call has downloaded."""
    part = partial.part_of(target)
    return part.stat().st_size if part.exists() else 0


def drop(target: Path) -> None:
    """Remove a downloaded file, and what a killed process may have left of it."""
    partial.drop(partial.part_of(target))
    target.unlink(missing_ok=True)


def read(url: str, name: str, *, limit: int = 1 << 24) -> bytes:
    """The answer of a web API. name: what messages call it; limit: bytes. Raises BadDownload."""
    remote = Remote(name, url)

    def attempt() -> bytes:
        with http.connect(remote, {"Accept": "application/json"}) as response:
            out, total = b"", http.length_of(response)
            while chunk := http.chunk(response, len(out), total):
                out += chunk
                if len(out) > limit:
                    raise http.failed(remote, f"the answer is longer than {limit} bytes")
            http.check_end(len(out), total)
            return out

    return http.with_retries(remote, attempt, lambda: 0)


def is_right(remote: Remote, path: Path, *, progress: Progress = no_progress) -> bool:
    """Whether a file has the published checksum, read back from the disk; True where none is published."""
    if remote.checksum is None:
        return True
    size = path.stat().st_size
    kind = remote.checksum.partition(":")[0]
    return remote.checksum.lower() == checksum_of(
        path, kind, report=lambda done: tell_bytes(progress, f"checking {remote.name}", done, size))


def checksum_of(path: Path, kind: str, *, report: Callable[[int], None] = lambda done: None) -> str:
    """The checksum of a file, such as `sha256:...`. kind: md5, sha256 or the like; report: called with the bytes read."""
    digest, done = hashlib.new(kind, usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            report(done)
    return f"{kind}:{digest.hexdigest()}"


def tell_bytes(progress: Progress, stage: str, done: int, total: int | None) -> None:
    """Report the bytes of a download, a checksum or an unpacked archive."""
    progress(stage, done, total, "bytes")


def free_bytes(folder: Path) -> int:
    """The free bytes of the disk on which `folder` is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def why_not_stored(error: OSError) -> str:
    """The reason why a file cannot be stored, in words."""
    return "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)


def _another_file(remote: Remote, part: Path) -> BadDownload:
    """Remove a file of another checksum than published, and make the error that says so."""
    assert remote.checksum is not None
    kind, _, wanted = remote.checksum.partition(":")
    found, size = checksum_of(part, kind).partition(":")[2], part.stat().st_size
    partial.drop(part)
    return http.failed(remote, f"the server sends another file ({size} bytes, {kind} begins {found[:12]}, "
                               f"wanted {wanted[:12]})", remedy="It was deleted; run again.")
