"""Files at an address, opened by fsspec: http, https, ftp, s3, gs, memory and all else that it supports.

    https://host/folder/clip.mp4 -> (file system, path in it) -> a file to be read from start to end
Files with a known checksum are downloaded by avsr.download, which resumes what an earlier call began.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit, urlunsplit

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
    "ClientPayloadError": "the connection ended before the file did",
}


def is_address(place: object) -> bool:
    """Whether this is an address such as `https://...` and not a path."""
    return isinstance(place, str) and "://" in place


def file_system_of(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, and the path in it.

    Raises ImportError if the file system needs a package that is not installed, ValueError for an unknown protocol. Call it
    each time: fsspec keeps one file system for each process, because it does not survive a fork.
    """
    import fsspec

    options = {}
    if _scheme(place) in HTTP:
        import aiohttp

        # By default aiohttp gives up after 5 minutes, however large the file is, and ignores http_proxy.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    return fsspec.core.url_to_fs(place, **options)


def open_stream(place: str) -> tuple[BinaryIO, int | None]:
    """The file at an address, to be read once from start to end, and its size in bytes or None.

    Raises the errors of the storage; `reason` puts them into words.
    """
    system, path = file_system_of(place)
    if _scheme(place) not in HTTP:
        file = system.open(path, "rb")
        return cast(BinaryIO, file), getattr(file, "size", None)
    # With a block size of 0 fsspec requests the whole file at once, which a server without ranges can answer too; with any
    # `size` it does not first make requests to find that out, whose errors all read "file not found".
    file: Any = system.open(path, "rb", block_size=0, size=1)
    announced = file.r.headers.get("Content-Length", "")
    return file, int(announced) if announced.isdigit() else None


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
