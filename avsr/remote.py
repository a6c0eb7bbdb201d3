"""Files at an address, opened by fsspec: http, https, ftp, s3, gs, memory and all else that it supports.

    https://host/folder/clip.mp4 -> (file system, path in it) -> a file to be read from start to end, or a range of its bytes
    a file here -> an object on storage, whole or not at all
Errors that pass (a server that is busy, a connection that breaks) are tried again after a while, and counted. Files with a
known checksum are downloaded by avsr.download, which resumes what an earlier call began.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from avsr.errors import AvsrError, BadOutput

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SILENT_SECONDS = 60           # without one byte from a web server, after which the connection is closed
HTTP = ("http", "https")
LONGEST_REASON = 200          # characters
SILENT = f"nothing came for {SILENT_SECONDS} s"
REASONS = {                   # of errors whose own text says less, by the name of their class
    "FileNotFoundError": "no such file", "InvalidUrlClientError": "this is no address", "TimeoutError": SILENT,
    "ServerTimeoutError": SILENT, "SocketTimeoutError": SILENT, "FSTimeoutError": SILENT,
    "TooManyRedirects": "the server redirects in circles",
    "ClientPayloadError": "the connection ended before the file did", "PermissionError": "no permission",
    "NoCredentialsError": "no credentials were found", "EndpointConnectionError": "the server cannot be reached",
}
T = TypeVar("T")
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "memory", "http", "https", "ftp")
LOST_SLASH = re.compile(rf"({'|'.join(SCHEMES)}):/([^/].*)", re.DOTALL)
TRIES = 8                     # of a request that fails by an error that may pass
FIRST_WAIT_S = 0.25           # before the second try; doubled before each further one, so that a store has 32 s to recover
RANGE = 2**22                 # bytes of an object that are fetched at once
PART = 2**24                  # bytes of a file that are sent at once: a shard of 256 MiB is never in memory
PASSING_ERRNOS = (errno.EBUSY, errno.EIO, errno.EAGAIN, errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ETIMEDOUT,
                  errno.ENETUNREACH, errno.EHOSTUNREACH, getattr(errno, "EREMOTEIO", 121))
PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)
PASSING_NAMES = ("EndpointConnectionError", "ConnectionClosedError", "ConnectTimeoutError", "ReadTimeoutError",
                 "ResponseStreamingError", "IncompleteReadError", "HTTPClientError", "ClientConnectionError",
                 "ClientConnectorError", "ServerDisconnectedError", "ClientPayloadError", "ClientOSError")
_retries, _counting = 0, threading.Lock()


def is_address(place: object) -> bool:
    """Whether this is an address such as `https://...` and not a path."""
    return isinstance(place, str) and "://" in place


def as_address(place: object) -> str | None:
    """The address, also of a Path, in which it has lost a slash (`s3:/bucket/folder`); None for a path on this machine."""
    if isinstance(place, str) and "://" in place:
        return place
    found = LOST_SLASH.fullmatch(str(place)) if isinstance(place, str | Path) else None
    return None if found is None else f"{found[1]}://{found[2]}"


def shown(place: str | Path) -> str:
    """A path or an address as a message names it."""
    address = as_address(place)
    return str(place) if address is None else without_secrets(address)


def file_system_of(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, and the path in it.

    Raises ImportError if the file system needs a package that is not installed, ValueError for an unknown protocol. Call it
    each time: fsspec keeps one file system for each process, because it does not survive a fork.
    """
    import fsspec

    options: dict[str, Any] = {}
    scheme = _scheme(place)
    if scheme in ("s3", "s3a"):                              # its own retries are not counted, and take minutes
        options = {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 10,
                                     "read_timeout": SILENT_SECONDS}}
    if scheme in HTTP:
        import aiohttp

        # By default aiohttp gives up after 5 minutes, however large the file is, and ignores http_proxy.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    system, path = fsspec.core.url_to_fs(place, **options)
    if scheme in ("s3", "s3a"):
        system.retries = 1
    return system, path


def open_stream(place: str) -> tuple[BinaryIO, int | None]:
    """The file at an address, to be read once from start to end, and its size in bytes or None.

    Raises the errors of the storage; `reason` puts them into words.
    """
    system, path = file_system_of(place)
    if _scheme(place) not in HTTP:
        size = int(retried(lambda: system.info(path))["size"])
        return cast(BinaryIO, BufferedReader(_Ranges(place, size), RANGE)), size
    # With a block size of 0 fsspec requests the whole file at once, which a server without ranges can answer too; with any
    # `size` it does not first make requests to find that out, whose errors all read "file not found".
    file: Any = system.open(path, "rb", block_size=0, size=1)
    announced = file.r.headers.get("Content-Length", "")
    return file, int(announced) if announced.isdigit() else None


class _Ranges(RawIOBase):
    """An object as a file that is read range by range, so that a connection that breaks costs one range."""

    def __init__(self, place: str, size: int):
        self.place, self.size, self.position = place, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self.size, self.position + min(len(buffer), RANGE))
        data = read_bytes(self.place, self.position, end) if end > self.position else b""
        buffer[:len(data)] = data
        self.position += len(data)
        return len(data)


def read_bytes(place: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of an object, or those from `start` to `end`. Raises the errors of the storage."""
    system, path = file_system_of(place)
    return retried(lambda: cast(bytes, system.cat_file(path, start=start, end=end)))


def object_sizes(folder: str) -> dict[str, int]:
    """The names and sizes of the objects directly below an address; empty if nothing is there. Raises AvsrError."""
    with storage_errors(folder):
        system, path = file_system_of(folder)
        try:
            rows = retried(lambda: system.ls(path, detail=True, refresh=True))
        except FileNotFoundError:
            return {}
        return {str(row["name"]).rpartition("/")[2]: int(row["size"] or 0) for row in rows if row["type"] == "file"}


def upload(path: Path, place: str) -> None:
    """Store a file at an address, whole or not at all. Raises AvsrError."""
    with storage_errors(place):
        system, target = file_system_of(place)
        options: dict[str, Any] = {"chunksize": PART, "max_concurrency": 2} if _scheme(place) in ("s3", "s3a") else {}
        retried(lambda: system.put_file(str(path), target, **options))


def write_bytes(place: str, data: bytes) -> None:
    """Store a few bytes at an address. Raises AvsrError."""
    with storage_errors(place):
        system, target = file_system_of(place)
        retried(lambda: system.pipe_file(target, data))


@contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Raise errors of a storage as BadOutput, which names the address and the remedy."""
    name = without_secrets(place)
    try:
        yield
    except AvsrError:
        raise
    except ImportError as error:
        raise BadOutput(f"{name}: a package is missing to use this storage ({error}).  Install it with: pip install "
                        "'avsr[storage]'.") from error
    except PermissionError as error:
        raise BadOutput(f"{name}: the storage gives no permission ({_words(error)}).  Use credentials that may list, read and "
                        "write there.") from error
    except FileNotFoundError as error:
        raise BadOutput(f"{name}: there is no such bucket ({_words(error)}).  Make it, or correct the address.") from error
    except Exception as error:                               # each kind of storage has errors of its own
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            remedy = "Set those of your storage, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        else:
            remedy = "Check the address and the connection, and run the same command again: what is done is kept."
        raise BadOutput(f"{name}: the storage cannot be used ({reason(error)}).  {remedy}") from error


def retried(call: Callable[[], T]) -> T:
    """The result of a call, which is tried again after a while, up to TRIES times, if its error may pass."""
    for number in range(TRIES - 1):
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
        add_retries(1)
        time.sleep(FIRST_WAIT_S * 2**number)
    return call()


def n_retries() -> int:
    """How many requests to storages were tried again so far, by this process and by the workers that it heard from."""
    return _retries


def add_retries(n: int) -> None:
    """Count requests that were tried again."""
    global _retries
    with _counting:
        _retries += n


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: the server is busy or has failed, the connection broke, nothing came."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in PASSING_NAMES:
        return True
    answer = getattr(error, "response", None)                # of botocore
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    statuses = (status, getattr(error, "status", None), getattr(error, "code", None))
    if any(one in PASSING_STATUSES for one in statuses) or getattr(error, "errno", None) in PASSING_ERRNOS:
        return True
    return error.__cause__ is not None and _may_pass(error.__cause__)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:LONGEST_REASON] or type(error).__name__


def reason(error: Exception) -> str:
    """Why a file at an address cannot be read, in words for a message."""
    kind, status = type(error).__name__, getattr(error, "status", None)         # status: of aiohttp's answers
    if kind in REASONS:
        return REASONS[kind]
    if isinstance(status, int) and status >= 400:
        return f"the server answers {status} {getattr(error, 'message', '')}".strip()
    words = getattr(error, "strerror", None) or (str(error) if isinstance(error, ValueError) else f"{kind}: {error}")
    return " ".join(words.split())[:LONGEST_REASON]


def without_secrets(place: str) -> str:
    """The address without password and query, which may contain keys that no message should show."""
    with suppress(ValueError):
        parts = urlsplit(place)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return place.partition("?")[0]


def name_in_address(place: str) -> str:
    """The name of the file at an address; its host if there is none."""
    host, _, path = without_secrets(place).partition("://")[2].partition("/")
    return unquote(path).rstrip("/").rpartition("/")[2] or host or "recording"


def _scheme(place: str) -> str:
    return place.partition("://")[0].lower()
