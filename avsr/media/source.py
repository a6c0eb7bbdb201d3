"""Sources that can be read only once, and those at an address: they are copied to a temporary file, which can be reopened.

    `-` | /dev/stdin | a named pipe | <(...) | a file without seek | https://..., s3://..., gs://... -> TemporaryCopy
"""

from __future__ import annotations

import errno
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from avsr import remote
from avsr.errors import BadMedia
from avsr.runtime import Progress, no_progress

IN_MEMORY = 2**25             # bytes that are held in memory; what is larger goes to the disk
# What files begin with that are given as recordings though they are none, lower case, and what to do about it.
MISTAKEN = {
    b"<!doctype html": ("a web page", "Give the address of the recording itself, or download it with a program for that site."),
    b"<html": ("a web page", "Give the address of the recording itself, or download it with a program for that site."),
    b"version https://git-lfs": ("Git LFS's note in place of the file", "Run git lfs pull in its repository."),
    b"#extm3u": ("a list of other files", "Name one of the files in it, or join them with another program."),
}
CHUNK = 2**20                 # bytes read at a time
LEFT_BYTES, LEFT_SHARE = 2**28, 0.05          # of the disk that are left free for others: so much, or so much of a small one
STDIN = re.compile(r"-|/dev/stdin|/(dev|proc/self)/fd/0")
PIPE = re.compile(r"/(dev|proc/(self|\d+))/fd/\d+")          # what a shell makes of <(...)


class TemporaryCopy(tempfile.SpooledTemporaryFile):
    """A copy of a source, in memory or in a temporary file without a name, that is gone when it is closed.

    name: the name of the source, see source_name.
    """

    def __init__(self, name: str):
        super().__init__(max_size=IN_MEMORY)
        self._name = name

    @property
    def name(self) -> str:
        return self._name


def source_name(source: object) -> str:
    """The name of a source in messages and for the files that are written about it: `stdin` for standard input."""
    if isinstance(source, str) and STDIN.fullmatch(source):
        return "stdin"
    if remote.is_address(source):
        return remote.name_in_address(str(source))
    if isinstance(source, str | Path):
        return "pipe" if PIPE.fullmatch(str(source)) else Path(source).name
    name = getattr(source, "name", None)
    return "stdin" if name == "<stdin>" else Path(name).name if isinstance(name, str) else "recording"


def mistaken_for_recording(begins: bytes) -> tuple[str, str] | None:
    """What a file is, by its first bytes, if people often mistake it for a recording, and the remedy; None for all others."""
    start = begins.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for sign, what in MISTAKEN.items() if start.startswith(sign)), None)


@contextmanager
def reopenable(source: Any, progress: Progress = no_progress) -> Iterator[Any]:
    """Give the source as it is, or a copy of it where it can be read only once or lies at an address.

    The copy lasts as long as the context. progress: is told the bytes that were copied. Raises BadMedia where the source cannot
    be read, or the disk has no room for it.
    """
    if isinstance(source, str) and source.startswith("file:///"):
        source = Path(unquote(source.removeprefix("file://")))
    opened = _open(source)
    if opened is None:
        yield source
        return
    file, size, own = opened
    if not own and file.seekable():                          # standard input that is a file: avsr transcribe - < clip.mp4
        yield file
        return
    try:
        copy = _copy(file, source, size, progress)
    finally:
        if own:
            file.close()
    with closing(copy):
        yield copy


def _open(source: Any) -> tuple[BinaryIO, int | None, bool] | None:
    """Open a source that must be copied: the file, its size where it is known, and whether we must close it; else None."""
    if remote.is_address(source):
        return (*_open_address(source), True)
    if isinstance(source, str) and STDIN.fullmatch(source):
        return _standard_input(), None, False
    if isinstance(source, str | Path):
        return _open_pipe(Path(source))
    if hasattr(source, "seekable") and not source.seekable():
        return source, None, False
    return None


def _open_address(address: str) -> tuple[BinaryIO, int | None]:
    shown = remote.without_secrets(address)
    try:
        return remote.open_stream(address)
    except ImportError as error:
        raise BadMedia(f"{shown}: a package is missing to read it ({error}).  Install that, or download the file with another "
                       "program.") from error
    except Exception as error:                               # each kind of storage has errors of its own
        raise BadMedia(f"{shown}: this cannot be read ({remote.reason(error)}).  Check the address, or download the file with "
                       "another program.") from error


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        state = "closed" if sys.stdin is None or sys.stdin.closed else "the keyboard"
        raise BadMedia(f"stdin: standard input is {state}.  Name a file, or send one through a pipe: cat clip.mp4 | avsr ...")
    return sys.stdin.buffer


def _open_pipe(path: Path) -> tuple[BinaryIO, None, bool] | None:
    """Open a named pipe; None for a path that is no pipe. Raises BadMedia for a device or a socket."""
    if re.match(r"(https?|s3|gs):/[^/]", str(path)):
        raise BadMedia(f"{path}: a Path cannot hold an address.  Give it as str.")
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):                            # whoever opens it says what is wrong
        return None
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise BadMedia(f"{path}: this is a device or a socket, not a recording.  Record from it with another program, such as "
                       "ffmpeg, and give the file or a pipe.")
    if not stat.S_ISFIFO(mode):
        return None
    try:
        return path.open("rb"), None, True
    except OSError as error:
        raise BadMedia(f"{path}: the pipe cannot be read ({error.strerror}).  Check its permissions.") from error


def _copy(file: BinaryIO, source: Any, size: int | None, progress: Progress) -> TemporaryCopy:
    """Copy a file that can be read once, to its end."""
    copy, done, name = TemporaryCopy(source_name(source)), 0, source_name(source)
    stage = f"{'downloading' if remote.is_address(source) else 'reading'} {name}"
    try:
        while chunk := _read(file, source):
            _store(copy, chunk, done, name)
            done += len(chunk)
            progress(stage, done, size, "bytes")
        if not done:
            raise BadMedia(f"{name}: nothing came, not one byte.  Check the program or the server that should have sent it.")
    except BaseException:
        with suppress(OSError):                              # a full disk: what could not be written cannot be on closing
            copy.close()
        raise
    return copy


def _read(file: BinaryIO, source: Any) -> bytes:
    name = remote.without_secrets(source) if remote.is_address(source) else source_name(source)
    try:
        chunk = file.read(CHUNK)
    except Exception as error:                               # each kind of storage has errors of its own
        raise BadMedia(f"{name}: it broke off while it was read ({remote.reason(error)}).  Run again, or store it as a file "
                       "with another program first.") from error
    if not isinstance(chunk, bytes | bytearray | memoryview):
        raise BadMedia(f"{name}: this gives {type(chunk).__name__} in place of bytes.  Open it in binary mode.")
    return chunk


def _store(copy: TemporaryCopy, chunk: bytes, done: int, name: str) -> None:
    """Append to the copy. Raises BadMedia before the disk is full, so that room is left for others."""
    folder = tempfile.gettempdir()
    try:
        if done + len(chunk) > IN_MEMORY:
            disk = shutil.disk_usage(folder)
            if disk.free - len(chunk) < min(LEFT_BYTES, LEFT_SHARE * disk.total):
                raise OSError(errno.ENOSPC, "the disk is nearly full")
        copy.write(chunk)
        copy.flush()                                         # else the last bytes would only fail when they are read
    except OSError as error:
        raise BadMedia(f"{name}: after {done} bytes its copy could not be stored ({error.strerror}).  Make room in {folder}, "
                       "or name a folder with room in the variable TMPDIR.") from error
