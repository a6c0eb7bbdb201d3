"""One downloader for every file that comes over the network: model files, corpora, noise.

    Remote (address, size and checksum as published) -> the file on disk, whole and checked
http.py: requests, redirects, further tries. partial.py: what is kept of a file that has arrived in part.
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
    """Fetch `remote` to `target`, going on with what an earlier call has left; returns `target`.

    The file gets its name only when it is whole and its checksum is right. Where two processes ask for the same target, one
    waits for the other. `progress` counts bytes. Raises BadDownload, and OSError where the file cannot be stored.
    """
    target.parent.mkdir(parents=True, exist_ok=True)

    def tell(stage: str, done: int, total: int | None) -> None:
        tell_bytes(progress, f"{stage} {remote.name}", done, total)

    with partial.locked(target, lambda done: tell("downloading", done, remote.size)) as part:
        if part is not None:
            resumed = partial.fill(remote, part, lambda done, total: tell("downloading", done, total))
            if resumed and not is_right(remote, part, progress=progress):
                partial.forget(part)                        # a power cut may have spoilt what was kept: once more, all of it
                partial.fill(remote, part, lambda done, total: tell("downloading", done, total))
            if not is_right(remote, part, progress=progress):
                raise _another_file(remote, part)
            os.replace(part, target)
            partial.notes_of(part).unlink(missing_ok=True)
    return target


def arrived_bytes(target: Path) -> int:
    """How much of a file is there from an earlier call."""
    part = partial.part_of(target)
    return part.stat().st_size if part.exists() else 0


def drop(target: Path) -> None:
    """Remove what was fetched, with what a kill may have left of its coming."""
    partial.drop(partial.part_of(target))
    target.unlink(missing_ok=True)


def read(url: str, name: str, *, limit: int = 1 << 24) -> bytes:
    """The answer at an address, as of a record's API. name: what messages call it; limit: bytes. Raises BadDownload."""
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
        path, kind, told=lambda done: tell_bytes(progress, f"checking {remote.name}", done, size))


def checksum_of(path: Path, kind: str, *, told: Callable[[int], None] = lambda done: None) -> str:
    """`md5:...` or `sha256:...` of a file, by the name of the kind; `told` hears how many bytes are read."""
    digest, done = hashlib.new(kind, usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            told(done)
    return f"{kind}:{digest.hexdigest()}"


def tell_bytes(progress: Progress, stage: str, done: int, total: int | None) -> None:
    """The one place that tells of bytes: those of downloads, of checksums and of unpacking."""
    progress(stage, done, total, "bytes")


def free_bytes(folder: Path) -> int:
    """Room on the disk that `folder` is on, or will be on once it is made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def why_not_stored(error: OSError) -> str:
    """The reason in words."""
    return "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)


def _another_file(remote: Remote, part: Path) -> BadDownload:
    """What arrived is no use, so it is not kept."""
    kind, _, wanted = remote.checksum.partition(":")
    found, size = checksum_of(part, kind).partition(":")[2], part.stat().st_size
    partial.drop(part)
    return http.failed(remote, f"the server sends another file ({size} bytes, {kind} begins {found[:12]}, "
                               f"wanted {wanted[:12]})", remedy="It was deleted; run again.")
