"""Files at an address, opened through fsspec: http, https, ftp, s3, gs, memory and whatever else it knows.

    https://host/folder/clip.mp4 -> (file system, path in it) -> a file to be read from start to end
Files whose sha256 is known come by way of avsr.download, which goes on with what an earlier call has left.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SILENT_SECONDS = 60           # without one byte from a web server: then the connection is given up
HTTP = ("http", "https")
LONGEST_REASON = 200          # letters
SILENT = f"nothing came for {SILENT_SECONDS} s"
WORDS = {                     # of errors whose own words say less, by the name of their class
    "FileNotFoundError": "no such file", "InvalidUrlClientError": "this is no address", "TimeoutError": SILENT,
    "ServerTimeoutError": SILENT, "SocketTimeoutError": SILENT, "FSTimeoutError": SILENT,
    "TooManyRedirects": "the server redirects in circles",
    "ClientPayloadError": "the connection ended before the file did",
}


def is_address(place: object) -> bool:
    """Whether this is a str such as `https://...`, not a path."""
    return isinstance(place, str) and "://" in place


def file_system_of(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system that an address is of, and the path in it.

    Raises ImportError where a package is missing for it, ValueError for a protocol that is not known. A file system is asked
    for each time: fsspec keeps it, one to a process, as it does not outlive a fork.
    """
    import fsspec

    options = {}
    if _scheme(place) in HTTP:
        import aiohttp

        # aiohttp's own limit is 5 minutes for all of a file, however large; and it heeds http_proxy only if it is told to.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    return fsspec.core.url_to_fs(place, **options)


def open_stream(place: str) -> tuple[BinaryIO, int | None]:
    """The file at an address, to be read once from start to end, and its size in bytes where that is known.

    Raises what the storage raises: each kind has errors of its own; see `reason`.
    """
    system, path = file_system_of(place)
    if _scheme(place) not in HTTP:
        file = system.open(path, "rb")
        size = getattr(file, "size", None)
    else:
        # With a block size of 0 fsspec asks for the whole in one request, which a server without ranges can answer too; with
        # any size it does not ask for that first, by requests whose errors all read "file not found".
        file = system.open(path, "rb", block_size=0, size=1)
        announced = file.r.headers.get("Content-Length", "")
        size = int(announced) if announced.isdigit() else None
    return file, size


def reason(error: Exception) -> str:
    """Why something at an address cannot be had, in words for a message."""
    kind, status = type(error).__name__, getattr(error, "status", None)         # status: of aiohttp's answers
    if kind in WORDS:
        return WORDS[kind]
    if isinstance(status, int) and status >= 400:
        return f"the server answers {status} {getattr(error, 'message', '')}".strip()
    words = getattr(error, "strerror", None) or (str(error) if isinstance(error, ValueError) else f"{kind}: {error}")
    return " ".join(words.split())[:LONGEST_REASON]


def without_secrets(place: str) -> str:
    """The address without password and query, which may hold keys that no message should show."""
    with suppress(ValueError):
        parts = urlsplit(place)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return place.partition("?")[0]


def name_in_address(place: str) -> str:
    """The name of the file at an address, its host where there is none."""
    host, _, path = without_secrets(place).partition("://")[2].partition("/")
    return unquote(path).rstrip("/").rpartition("/")[2] or host or "recording"


def _scheme(place: str) -> str:
    return place.partition("://")[0].lower()
