"""Requests over HTTP: an address -> a checked answer and its bytes, with retries of what may pass.

urllib is used rather than httpx or aiohttp because it streams, supports proxies and redirects, and imports in milliseconds.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TypeVar
from urllib.parse import urlsplit

from avsr import __version__
from avsr.errors import BadDownload

TIMEOUT_SECONDS = 30                                        # without one byte from the server
CHUNK_BYTES = 1 << 16
PAUSES_SECONDS = (1, 2, 4, 8, 16)                           # before each retry; after the last one the call fails
ADVANCE_BYTES = 1 << 20                                     # after so many new bytes, retries are counted from 0 again
LONGEST_WAIT_SECONDS = 120                                  # that a server may request by Retry-After
RETRYABLE_STATES = (408, 425, 429, 500, 502, 503, 504)     # HTTP states that may pass
# Servers may refuse clients without a name, and Zenodo answers 403 to some names.
HEADERS = {"User-Agent": f"avsr/{__version__}", "Accept-Encoding": "identity"}
GO_ON = "Run again; it goes on from there."

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A file as its publisher describes it. size: bytes; checksum: `sha256:...` or `md5:...`; None if not published."""

    name: str
    url: str
    size: int | None = None
    checksum: str | None = None


class Retryable(Exception):
    """An attempt failed and may be repeated, after `wait` seconds if the server says so, and from the first byte if `anew`."""

    def __init__(self, problem: str, *, wait: float | None = None, anew: bool = False):
        super().__init__(problem)
        self.wait, self.anew = wait, anew


def with_retries(remote: Remote, attempt: Callable[[], T], arrived: Callable[[], int]) -> T:
    """Repeat `attempt` while it raises Retryable, a limited number of times with growing pauses. arrived: counts the bytes."""
    failures, first = 0, arrived()
    furthest = first
    while True:
        try:
            return attempt()
        except Retryable as error:
            if arrived() - furthest >= ADVANCE_BYTES:
                failures, furthest = 0, arrived()
            unreachable = isinstance(error.__cause__, urllib.error.URLError) and arrived() == first
            if failures == len(PAUSES_SECONDS) or unreachable:
                tried = f", {failures + 1} times" if failures else ""
                raise failed(remote, f"{error}{tried}", network=True, remedy=f"Check the network.  {GO_ON}") from error
            wait = PAUSES_SECONDS[failures] if error.wait is None else error.wait
            if wait > LONGEST_WAIT_SECONDS:
                raise failed(remote, f"{error} and asks to wait {wait:.0f} s", network=True,
                             remedy="Run again after that time.") from error
            failures += 1
            time.sleep(wait)


def connect(remote: Remote, headers: dict[str, str]) -> http.client.HTTPResponse:
    """The answer of the server, whose body is not read yet. Raises Retryable if another attempt may help, else BadDownload."""
    if not remote.url.startswith(("http://", "https://")):
        raise failed(remote, "its address is neither http nor https")
    opener = urllib.request.build_opener(_Redirects, urllib.request.HTTPSHandler(context=_certificates()))
    try:
        response = opener.open(urllib.request.Request(remote.url, headers=HEADERS | headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        raise _refused(remote, error) from None
    except urllib.error.URLError as error:
        raise Retryable(f"no connection ({getattr(error.reason, 'strerror', None) or error.reason})") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise failed(remote, f"its address is no address ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise Retryable(f"the server gives no answer ({_reason(error)})") from error
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        response.close()
        raise failed(remote, "the server answers with a web page (HTML) in place of the file", network=True,
                     remedy="Open the address in a browser: a network may want a login first.")
    return response


def chunk(response: http.client.HTTPResponse, done: int, total: int | None) -> bytes:
    """The next bytes of the body; empty at its end. done, total: the bytes before them and of the whole body, for the
    message."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Retryable(f"the connection broke after {_of(done, total)} ({_reason(error)})") from error


def check_end(done: int, total: int | None) -> None:
    """Raise Retryable if the body ended before its announced length."""
    if total is not None and done < total:
        raise Retryable(f"the connection ended after {_of(done, total)}")


def length_of(response: http.client.HTTPResponse) -> int | None:
    """The announced number of bytes of the body; None if there is none."""
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def failed(remote: Remote, problem: str, *, remedy: str = GO_ON, network: bool = False) -> BadDownload:
    """The error for a file that cannot be downloaded. network: whether other downloads would fail as well."""
    return BadDownload(f"{remote.name}: could not be fetched from {remote.url}: {problem}.  {remedy}", problem, network=network)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, also to other hosts, but never from an encrypted connection to one that is not encrypted."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            problem = f"the server redirects to {newurl}, which is not encrypted"
            raise BadDownload(f"{req.full_url}: {problem}.  Try again later, or download it by hand in a "
                              "browser; tell those who run the server.", problem)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refused(remote: Remote, error: urllib.error.HTTPError) -> Exception:
    """The error for an HTTP state of 300 and above."""
    with error:
        if 300 <= error.code < 400:
            return failed(remote, f"the server redirects in circles, or to nowhere (HTTP {error.code})")
        problem = f"the server answers {error.code} {error.reason}"
        if error.code == 416:                               # the file is shorter than what was kept, so it has changed
            return Retryable(problem, anew=True)
        if error.code in RETRYABLE_STATES:
            return Retryable(problem, wait=_retry_after(error.headers.get("Retry-After")))
        return failed(remote, problem, remedy="Check whether its publisher has moved it.")


def _retry_after(value: str | None) -> float | None:
    """The seconds to wait, from a number or a date; None if it is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _of(done: int, total: int | None) -> str:
    return f"{done} bytes" if total is None else f"{done} of {total} bytes"


def _reason(error: Exception) -> str:
    return f"nothing came for {TIMEOUT_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """The certificates of the system and of certifi: a Python that is not the system's own often finds none."""
    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context
