"""Partial downloads: what is kept of a file that has arrived in part, and how the rest is requested.

    .NAME.part          the first bytes of the file
    .NAME.part.json     which file they belong to: its published size and checksum, and the server's ETag and date
A process that is killed loses only the bytes that were on their way. Bytes of two versions of a file are never joined.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from avsr.download.http import Remote, Retryable, check_end, chunk, connect, failed, length_of, with_retries
from avsr.output import HAS_LOCKS, is_same_file, take_lock, whole_file

POLL_SECONDS = 0.2                                    # while another process downloads the same file


@dataclass(frozen=True)
class Identity:
    """The version of a file. size, checksum: as published; etag, modified: headers of the server. None stands for unknown."""

    size: int | None
    checksum: str | None
    etag: str | None
    modified: str | None


@contextmanager
def locked(target: Path, waiting: Callable[[int], None]) -> Iterator[Path | None]:
    """Hold the partial file of `target` for this process; yield None if another process has completed it in the meantime.

    waiting: called with the number of bytes that the other process has. The lock ends with the process, however it ends.
    """
    part = part_of(target)
    if not HAS_LOCKS:                                       # Windows: nothing keeps two processes apart
        part.touch()
        yield part
        return
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait(handle, waiting)
            if is_same_file(part, handle):
                try:
                    yield part
                finally:
                    if is_same_file(part, handle) and not os.fstat(handle).st_size:
                        drop(part)                          # nothing has arrived: leave nothing behind
                return
            if target.exists():                             # it was renamed while this process waited
                yield None
                return
        finally:
            os.close(handle)


def fill(remote: Remote, part: Path, report: Callable[[int, int | None], None]) -> bool:
    """Download what a partial file lacks; returns whether some of it was there before.

    report: called with the bytes that are there and the bytes of the whole file.
    """
    known = _identity_of(part)
    if known is None or (known.size, known.checksum) != (remote.size, remote.checksum):
        forget(part)
    before = part.stat().st_size
    with part.open("r+b") as file:
        with_retries(remote, lambda: _attempt(remote, part, file, report), lambda: os.fstat(file.fileno()).st_size)
        file.flush()
        os.fsync(file.fileno())
    return before > 0


def forget(part: Path) -> None:
    """Empty a partial file."""
    os.truncate(part, 0)
    notes_of(part).unlink(missing_ok=True)


def drop(part: Path) -> None:
    """Remove a partial file."""
    part.unlink(missing_ok=True)
    notes_of(part).unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """The partial file of `target`, which holds its bytes until it is whole."""
    return target.with_name(f".{target.name}.part")


def notes_of(part: Path) -> Path:
    """The file that says to which version of which file the bytes belong."""
    return part.with_name(f"{part.name}.json")


def _attempt(remote: Remote, part: Path, file: IO[bytes], report: Callable[[int, int | None], None]) -> None:
    """Request the rest of the file over one connection, or all of it if the server does not give the rest alone."""
    known, done = _identity_of(part), file.seek(0, os.SEEK_END)
    if done == remote.size:
        return
    try:
        with connect(remote, _range(known, done)) as response:
            if response.status == 206:
                _check_rest(remote, response, known, done)
            else:
                done = _start(remote, response, part)
            length = length_of(response)
            total = remote.size if remote.size is not None or length is None else done + length
            report(done, total)
            _store(remote, response, file, done, total, report)
    except Retryable as error:
        if error.anew:
            forget(part)
        raise


def _store(remote: Remote, response: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None,
           report: Callable[[int, int | None], None]) -> None:
    """Write the body of the answer from byte `done` on."""
    file.seek(done)
    try:
        while piece := chunk(response, done, total):
            done += len(piece)
            if total is not None and done > total:
                raise failed(remote, f"the server sends more than {total} bytes")
            file.write(piece)
            report(done, total)
    finally:
        file.flush()
    check_end(done, total)


def _range(known: Identity | None, done: int) -> dict[str, str]:
    """Headers that request the missing bytes of an unchanged file; none if it cannot be known whether it has changed."""
    if known is None or not done:
        return {}
    strong = known.etag if known.etag and not known.etag.startswith("W/") else None     # RFC 9110 allows no weak ones here
    condition = strong or known.modified
    if condition is None:
        return {"Range": f"bytes={done}-"} if known.checksum else {}
    return {"Range": f"bytes={done}-", "If-Range": condition}


def _check_rest(remote: Remote, response: http.client.HTTPResponse, known: Identity | None, done: int) -> None:
    """Raise an error unless a partial answer begins at byte `done` of the same version of the file."""
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if total.isdigit() and remote.size is not None and int(total) != remote.size:
        raise failed(remote, _wrong_size(int(total), remote.size))
    etag, modified = _state(response)
    if known is None or (etag and known.etag and etag != known.etag) or (
            modified and known.modified and modified != known.modified):
        raise Retryable("the file has changed on the server", anew=True)
    if span.partition("-")[0] != str(done):
        raise Retryable(f"the server sends other bytes ({span or 'without their place'}) than those asked for", anew=True)


def _start(remote: Remote, response: http.client.HTTPResponse, part: Path) -> int:
    """Begin at the first byte, and return 0. An answer of another length than published is refused first."""
    length = length_of(response)
    if length is not None and remote.size is not None and length != remote.size:
        raise failed(remote, _wrong_size(length, remote.size))
    forget(part)
    with whole_file(notes_of(part), alone=True) as fresh:
        fresh.write_text(json.dumps(asdict(Identity(remote.size, remote.checksum, *_state(response)))), encoding="utf-8")
    return 0


def _wrong_size(announced: int, published: int) -> str:
    return f"the server announces {announced} bytes, wanted {published}"


def _state(response: http.client.HTTPResponse) -> tuple[str | None, str | None]:
    return response.headers.get("ETag"), response.headers.get("Last-Modified")


def _identity_of(part: Path) -> Identity | None:
    with suppress(OSError, ValueError, TypeError):
        return Identity(**json.loads(notes_of(part).read_text(encoding="utf-8")))
    return None


def _wait(handle: int, waiting: Callable[[int], None]) -> None:
    """Wait until the lock is free, and take it."""
    while True:
        try:
            take_lock(handle)
            return
        except BlockingIOError:
            waiting(os.fstat(handle).st_size)
            time.sleep(POLL_SECONDS)
        except PermissionError:                             # a mount that gives no lock
            return
