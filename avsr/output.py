"""Writing to disk: files that appear whole or not at all, and folders that one process holds at a time.

    data -> a temporary file beside the path -> renamed to the path
    folder -> a lock of the operating system, which ends with the process however it ends
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import RawIOBase
from pathlib import Path

from avsr.errors import AvsrError, BadOutput

try:
    import fcntl
except ImportError:                                         # Windows, where nothing keeps two processes out of one folder
    fcntl = None

HAS_LOCKS = fcntl is not None
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)         # disk full, quota used up, file larger than it may be
LONGEST_SUFFIX = 8                                          # of a temporary name, which must not become too long
TEMPORARY = ".avsr-*.part*"                                  # the temporary files of `whole_file`, as a pattern
LOCK_TRIES = 100                                            # to open a lock file that other processes keep removing
REMEDY = "Make room, or choose another folder."


@contextmanager
def whole_file(path: Path | str, *, alone: bool = False, sync: bool = False) -> Iterator[Path]:
    """Yield the path of an empty temporary file beside `path`, and rename it to `path` if the block ends without an exception.

    Otherwise the temporary file is removed and `path` stays as it was. The temporary name begins with a dot, so that readers of
    folders skip it, and ends in the suffix of `path`, by which encoders choose a format. The file gets the permissions of every
    new file (umask), whoever wrote it: the library safetensors makes files that only their owner can read.

    alone: whether no other process writes `path` at the same time, as in a folder that is `locked`. The temporary name is then
    always the same, so that the next run writes over what a killed process left behind. sync: whether to wait until the disk
    has the bytes before renaming. Raises OSError.
    """
    path = Path(path)
    suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
    fresh = path.with_name(f".{path.name}.part" if alone else f".avsr-{secrets.token_hex(6)}.part{suffix}")
    if path.exists() and not path.is_file():                # renaming would replace /dev/null by a file
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL,
                      os.strerror(errno.EISDIR) if path.is_dir() else "Not a regular file", str(path))
    try:
        if alone:
            fresh.unlink(missing_ok=True)                   # it may have other permissions
        with fresh.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield fresh
        _finish(fresh, mode, sync=sync)
        os.replace(fresh, path)
    finally:
        with suppress(OSError):                             # it was renamed, or never made
            fresh.unlink()


def _finish(path: Path, mode: int, *, sync: bool) -> None:
    """Give a file its permissions, and with `sync` wait until all of it is on the disk."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
    if sync:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def write_file(path: Path | str, data: str | bytes, *, remedy: str = REMEDY) -> None:
    """Write a file whole or not at all, and make its folder if need be. Text becomes UTF-8, with `?` for what is not Unicode.

    Raises BadOutput, whose message ends in `remedy`.
    """
    write_files({Path(path): data}, lambda reason: f"{path}: it cannot be written ({reason}).  {remedy}")


def write_files(files: Mapping[Path, str | bytes], message: Callable[[str], str]) -> None:
    """Write several files as `write_file` does, either all of them or none.

    The first of `files` is renamed last, when the others are there. message: makes the text of the exception from the reason,
    such as `No space left on device`. Raises BadOutput.
    """
    try:
        with ExitStack() as stack:
            for path, data in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh = stack.enter_context(whole_file(path))
                with fresh.open("wb") as file:
                    file.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)
                    file.flush()
                    os.fsync(file.fileno())                 # some network file systems report a full disk only here
    except OSError as error:
        raise BadOutput(message(reason_of(error))) from error


def append_lines(path: Path | str, text: str) -> None:
    """Add whole lines to the end of a text file, all of them or none. Raises OSError.

    A last line without an end, as a killed process may leave it, is removed first.
    """
    rest = memoryview(text.encode("utf-8", "replace"))
    with open(path, "ab+", buffering=0) as file:            # a buffer would be written once more when the file is closed
        before = _end_of_lines(file, file.seek(0, os.SEEK_END))
        file.truncate(before)
        try:
            while rest:
                rest = rest[file.write(rest):]
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise


def _end_of_lines(file: RawIOBase, size: int, block: int = 1 << 16) -> int:
    """The offset behind the last line end among the first `size` bytes; 0 if there is none."""
    while size:
        start = max(0, size - block)
        file.seek(start)
        if (found := (file.read(size - start) or b"").rfind(b"\n")) >= 0:
            return start + found + 1
        size = start
    return 0


def reason_of(error: BaseException) -> str:
    """What went wrong, without the path: `No space left on device`, also of safetensors' `I/O error: ... (os error 28)`."""
    text = getattr(error, "strerror", None) or str(error)
    found = re.search(r"I/O error: (.+) \(os error \d+\)", text)
    return found[1] if found else text


@contextmanager
def locked(folder: Path | str, command: str) -> Iterator[None]:
    """Hold a folder for this process, because two that write into it would mix or lose their files.

    command: what the process does, such as `avsr train`. The lock is the operating system's (flock), on a file such as
    .avsr-train.lock in the folder. It ends with the process, also if that is killed, so a lock file that is left behind stops
    nobody. It holds across the machines of a network file system that passes locks on (NFS since Linux 2.6.12, SMB since 5.5).
    Where there are no locks, as on Windows, nothing is held. The lock has a file of its own because SMB lets nobody else read a
    locked file.

    The folder is made if need be. Raises AvsrError if another process holds it, and BadOutput if it cannot be written to.
    """
    path, handle = Path(folder) / f".{command.replace(' ', '-')}.lock", None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if HAS_LOCKS:
            handle = _hold(path, f"{folder}: another {command} is at work in it")
    except OSError as error:
        raise BadOutput(f"{folder}: it cannot be written ({error.strerror}).  Choose another folder.") from error
    if handle is None:
        yield
        return
    try:
        yield
    finally:
        try:
            with suppress(OSError):
                path.unlink()                               # while it is locked, so that a waiting process sees it gone
        finally:
            os.close(handle)


def take_lock(handle: int) -> None:
    """Lock an open file for this process, unless its file system has no locks.

    Raises BlockingIOError or, on SMB, PermissionError if another process has the lock.
    """
    assert fcntl is not None, "callers ask HAS_LOCKS first"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError:                                         # a file system without locks
        pass


def is_same_file(path: Path, handle: int) -> bool:
    """Whether an open file is still the one at `path`."""
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(handle))
    return False


def _hold(path: Path, busy: str) -> int:
    """Open and lock the file at `path`. Raises AvsrError, whose message begins with `busy`."""
    for _ in range(LOCK_TRIES):
        handle = _open_lock(path)
        try:
            take_lock(handle)
        except (BlockingIOError, PermissionError) as error:
            os.close(handle)
            raise AvsrError(f"{busy}{_holder(path)}.  Wait for it, or choose another folder.") from error
        if is_same_file(path, handle):
            with suppress(OSError):                         # a full disk stops nobody here
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()} {platform.node()}\n".encode())
            return handle
        os.close(handle)                                    # the process that held it has just removed it: try again
    raise AvsrError(f"{busy}.  Wait for it, or choose another folder.")


def _open_lock(path: Path) -> int:
    """Open for writing, which NFS asks of a lock; for reading if a killed process of another user left the file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)


def _holder(path: Path) -> str:
    """` (process 4711 on NAME)`; empty if the lock file does not say."""
    with suppress(OSError, ValueError):
        pid, name = path.read_text(encoding="utf-8").split()
        return f" (process {int(pid)} on {name})"
    return ""
