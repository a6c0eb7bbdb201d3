"""What is written to disk: files that appear whole or not at all, and folders into which one process writes at a time.

    data -> a temporary file beside the path -> renamed to the path
    folder -> a lock that the operating system drops when its process ends, however it ends
"""

from __future__ import annotations

import errno
import os
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
except ImportError:                                         # Windows: two processes in one folder are not held apart
    fcntl = None

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)         # disk full, quota used up, file larger than it may be
LONGEST_SUFFIX = 8                                          # of a temporary name, which must not become too long
LOCK_TRIES = 100                                            # with a file that others remove as we open it
REMEDY = "Make room, or choose another folder."


@contextmanager
def whole_file(path: Path | str, *, alone: bool = False, sync: bool = False) -> Iterator[Path]:
    """Yield the path of an empty temporary file beside `path`; it takes that name where the block ends without an exception.

    Otherwise the temporary file is removed and what was at `path` stays. The name of the temporary file begins with a dot, so
    that readers of folders leave it out, and has the suffix of `path`, by which encoders choose a format. The file gets the
    permissions of every new file (umask), whoever wrote it: the library safetensors makes files that only their owner can read.

    alone: no other process writes `path` meanwhile, as in a folder that is `locked`; the name of the temporary file is then
    always the same, so what a killed process left of it is written over. sync: wait until the disk has the bytes, before
    renaming. Raises OSError.
    """
    path = Path(path)
    suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
    fresh = path.with_name(f".{path.name}.part" if alone else f".avsr-{secrets.token_hex(6)}.part{suffix}")
    if path.exists() and not path.is_file():                # renaming would put a file in the place of /dev/null
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL,
                      os.strerror(errno.EISDIR) if path.is_dir() else "Not a regular file", str(path))
    try:
        if alone:
            fresh.unlink(missing_ok=True)                   # it may have other permissions
        with fresh.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield fresh
        _settle(fresh, mode, sync=sync)
        os.replace(fresh, path)
    finally:
        with suppress(OSError):                             # it was renamed, or could never be made
            fresh.unlink()


def _settle(path: Path, mode: int, *, sync: bool) -> None:
    """The permissions `mode`, and with `sync` every byte on the disk."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
    if sync:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def write_file(path: Path | str, data: str | bytes, *, remedy: str = REMEDY) -> None:
    """Write a file whole or not at all, in a folder that is made if need be; text as UTF-8, with `?` for what is no Unicode.

    Raises BadOutput, whose message ends in `remedy`.
    """
    write_files({Path(path): data}, lambda reason: f"{path}: it cannot be written ({reason}).  {remedy}")


def write_files(files: Mapping[Path, str | bytes], message: Callable[[str], str]) -> None:
    """Write files of which all appear whole or none does, in folders that are made if need be; text as in `write_file`.

    The first of `files` is renamed last, when the others are there. message: makes the text of the exception out of the
    reason, such as `No space left on device`. Raises BadOutput.
    """
    try:
        with ExitStack() as stack:
            for path, data in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh = stack.enter_context(whole_file(path))
                with fresh.open("wb") as file:
                    file.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)
                    file.flush()
                    os.fsync(file.fileno())                 # some network file systems tell only then that the disk is full
    except OSError as error:
        raise BadOutput(message(reason_of(error))) from error


def append_lines(path: Path | str, text: str) -> None:
    """Add whole lines to the end of a text file, all of them or none. A last line without an end, which a killed process
    may leave, is removed first. Raises OSError."""
    rest = memoryview(text.encode("utf-8", "replace"))
    with open(path, "ab+", buffering=0) as file:            # no buffer, whose rest would be written while the file is closed
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
    """The offset behind the last end of a line among the first `size` bytes, 0 where there is none."""
    while size:
        start = max(0, size - block)
        file.seek(start)
        if (found := file.read(size - start).rfind(b"\n")) >= 0:
            return start + found + 1
        size = start
    return 0


def reason_of(error: Exception) -> str:
    """What went wrong, without the path: `No space left on device`, also of safetensors' `I/O error: ... (os error 28)`."""
    text = getattr(error, "strerror", None) or str(error)
    found = re.search(r"I/O error: (.+) \(os error \d+\)", text)
    return found[1] if found else text


@contextmanager
def locked(folder: Path | str, command: str) -> Iterator[None]:
    """Hold a folder for this process, as two that write into it would mix or lose their files. command: such as `avsr train`.

    The lock is one of the operating system (flock) on the file .avsr-train.lock of the folder: it ends with the process, also
    where that is killed, so a file that a killed process left behind stops nobody. It holds across the machines of a network
    file system that passes locks on (NFS since Linux 2.6.12, SMB since 5.5); where there are no locks at all, nothing is held.
    The lock has a file of its own because SMB lets nobody else read a file that is locked.

    The folder is made if need be. Raises AvsrError where another process holds it, and BadOutput where it cannot be written to.
    """
    path, handle = Path(folder) / f".{command.replace(' ', '-')}.lock", None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is not None:
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
                path.unlink()                               # still held: whoever waits for it sees that it is gone
        finally:
            os.close(handle)


def _hold(path: Path, busy: str) -> int:
    """An open and locked file of that name. Raises AvsrError, which begins with `busy`."""
    for _ in range(LOCK_TRIES):
        handle = _open_lock(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:     # SMB says that permission is denied
            os.close(handle)
            raise AvsrError(f"{busy}{_holder(path)}.  Wait for it, or choose another folder.") from error
        except OSError:                                     # a file system that knows no locks
            pass
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                with suppress(OSError):                     # a full disk stops nobody here
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
                return handle
        os.close(handle)                                    # the process that held it has just removed it: once more
    raise AvsrError(f"{busy}.  Wait for it, or choose another folder.")


def _open_lock(path: Path) -> int:
    """Open for writing, which NFS asks of a lock; for reading where another user's killed process left the file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)


def _holder(path: Path) -> str:
    """` (process 4711 on NAME)`; empty where that cannot be read."""
    with suppress(OSError, ValueError):
        pid, name = path.read_text(encoding="utf-8").split()
        return f" (process {int(pid)} on {name})"
    return ""
