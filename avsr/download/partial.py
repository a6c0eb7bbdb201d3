"""A file that has arrived in part: what is kept of it, whose it is, and how the rest is asked for.

    .NAME.part          the bytes from the first on
    .NAME.part.json     which file they are of: size and checksum as published, and the server's words for its state
So a kill at any moment costs only what was on its way. Bytes are never joined to those of another state of the file.
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
from avsr.output import whole_file

try:
    import fcntl
except ImportError:                                         # Windows: two processes that want the same file are not held apart
    fcntl = None

LOOK_EVERY_SECONDS = 0.2                                    # while another process fetches the same file


@dataclass(frozen=True)
class Identity:
    """What the bytes are part of. size, checksum: as published; etag, modified: headers; None where there are none."""

    size: int | None
    checksum: str | None
    etag: str | None
    modified: str | None


@contextmanager
def locked(target: Path, waiting: Callable[[int], None]) -> Iterator[Path | None]:
    """The partial file of `target`, for this process alone; None where another process has completed it meanwhile.

    `waiting` hears how many bytes the other process has. The lock goes with the process, however it ends.
    """
    part = part_of(target)
    if fcntl is None:
        part.touch()
        yield part
        return
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait(handle, waiting)
            if _is_at(part, handle):
                try:
                    yield part
                finally:
                    if _is_at(part, handle) and not os.fstat(handle).st_size:
                        drop(part)                          # nothing has come: leave nothing
                return
            if target.exists():                             # it was renamed while this process waited
                yield None
                return
        finally:
            os.close(handle)


def fill(remote: Remote, part: Path, told: Callable[[int, int | None], None]) -> bool:
    """Bring the partial file to its full length; returns whether some of it was there before. `told`: bytes done, in all."""
    known = _identity_of(part)
    if known is None or (known.size, known.checksum) != (remote.size, remote.checksum):
        forget(part)
    before = part.stat().st_size
    with part.open("r+b") as file:
        with_retries(remote, lambda: _attempt(remote, part, file, told), lambda: os.fstat(file.fileno()).st_size)
        file.flush()
        os.fsync(file.fileno())
    return before > 0


def forget(part: Path) -> None:
    """Keep nothing of it."""
    os.truncate(part, 0)
    notes_of(part).unlink(missing_ok=True)


def drop(part: Path) -> None:
    """Remove it."""
    part.unlink(missing_ok=True)
    notes_of(part).unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """Where the bytes of a file lie until it is whole."""
    return target.with_name(f".{target.name}.part")


def notes_of(part: Path) -> Path:
    """The file that says what the bytes are of."""
    return part.with_name(f"{part.name}.json")


def _attempt(remote: Remote, part: Path, file: IO[bytes], told: Callable[[int, int | None], None]) -> None:
    """One connection: the rest of the file, or all of it where the rest alone cannot be had."""
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
            told(done, total)
            _store(remote, response, file, done, total, told)
    except Retryable as error:
        if error.anew:
            forget(part)
        raise


def _store(remote: Remote, response: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None,
           told: Callable[[int, int | None], None]) -> None:
    """Write the body from byte `done` on."""
    file.seek(done)
    try:
        while piece := chunk(response, done, total):
            done += len(piece)
            if total is not None and done > total:
                raise failed(remote, f"the server sends more than {total} bytes")
            file.write(piece)
            told(done, total)
    finally:
        file.flush()
    check_end(done, total)


def _range(known: Identity | None, done: int) -> dict[str, str]:
    """Headers that ask for what is missing unless the file has changed; none, for all of it, if that cannot be known."""
    if known is None or not done:
        return {}
    strong = known.etag if known.etag and not known.etag.startswith("W/") else None     # RFC 9110 allows no weak ones here
    condition = strong or known.modified
    if condition is None:
        return {"Range": f"bytes={done}-"} if known.checksum else {}
    return {"Range": f"bytes={done}-", "If-Range": condition}


def _check_rest(remote: Remote, response: http.client.HTTPResponse, known: Identity | None, done: int) -> None:
    """Raises unless a partial answer begins at byte `done` of the very file that is there in part."""
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if total.isdigit() and remote.size is not None and int(total) != remote.size:
        raise failed(remote, _lie(int(total), remote.size))
    etag, modified = _state(response)
    if known is None or (etag and known.etag and etag != known.etag) or (
            modified and known.modified and modified != known.modified):
        raise Retryable("the file has changed on the server", anew=True)
    if span.partition("-")[0] != str(done):
        raise Retryable(f"the server sends other bytes ({span or 'without their place'}) than those asked for", anew=True)


def _start(remote: Remote, response: http.client.HTTPResponse, part: Path) -> int:
    """Begin at the first byte; returns 0. An answer of another length than published is refused before."""
    length = length_of(response)
    if length is not None and remote.size is not None and length != remote.size:
        raise failed(remote, _lie(length, remote.size))
    forget(part)
    with whole_file(notes_of(part), alone=True) as fresh:
        fresh.write_text(json.dumps(asdict(Identity(remote.size, remote.checksum, *_state(response)))), encoding="utf-8")
    return 0


def _lie(announced: int, published: int) -> str:
    return f"the server announces {announced} bytes, wanted {published}"


def _state(response: http.client.HTTPResponse) -> tuple[str | None, str | None]:
    return response.headers.get("ETag"), response.headers.get("Last-Modified")


def _identity_of(part: Path) -> Identity | None:
    with suppress(OSError, ValueError, TypeError):
        return Identity(**json.loads(notes_of(part).read_text(encoding="utf-8")))
    return None


def _wait(handle: int, waiting: Callable[[int], None]) -> None:
    """Take the lock, as soon as it is free."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waiting(os.fstat(handle).st_size)
            time.sleep(LOOK_EVERY_SECONDS)
        except OSError:                                     # a mount that knows no locks
            return


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file is still the one of that name."""
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(handle))
    return False
