"""Requests over HTTP: an address -> a checked answer and its bytes; what fails for a moment is tried again.

urllib, and not httpx or aiohttp: it streams, knows proxies and redirects, and keeps `import avsr.assets` at milliseconds.
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
PAUSES_SECONDS = (1, 2, 4, 8, 16)                           # before each further try; after them the call gives up
ADVANCE_BYTES = 1 << 20                                     # a try that brought so many new bytes makes the count start anew
LONGEST_WAIT_SECONDS = 120                                  # that a server may ask for by Retry-After
WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)     # HTTP states that pass
# Servers may refuse clients that do not say who they are: Zenodo answers 403 to some by name.
HEADERS = {"User-Agent": f"avsr/{__version__}", "Accept-Encoding": "identity"}
GO_ON = "Run again; it goes on from there."

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A file as its publisher announces it. size: bytes; checksum: `sha256:...` or `md5:...`; None where not published."""

    name: str
    url: str
    size: int | None = None
    checksum: str | None = None


class Retryable(Exception):
    """A try that failed and may be repeated: after `wait` seconds where the server says so, from the first byte if `anew`."""

    def __init__(self, problem: str, *, wait: float | None = None, anew: bool = False):
        super().__init__(problem)
        self.wait, self.anew = wait, anew


def with_retries(remote: Remote, attempt: Callable[[], T], arrived: Callable[[], int]) -> T:
    """Repeat `attempt` while it breaks, with growing pauses and a bounded number of times; `arrived` counts bytes."""
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
    """The server's answer, its body still to be read. Raises Retryable where another try may help, else BadDownload."""
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
        raise Retryable(f"the server gives no answer ({_words(error)})") from error
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        response.close()
        raise failed(remote, "the server answers with a web page (HTML) in place of the file", network=True,
                     remedy="Open the address in a browser: a network may want a login first.")
    return response


def chunk(response: http.client.HTTPResponse, done: int, total: int | None) -> bytes:
    """The next bytes as they arrive, none at the end. done, total: bytes before them and in all, for the message."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Retryable(f"the connection broke after {_of(done, total)} ({_words(error)})") from error


def check_end(done: int, total: int | None) -> None:
    """Raises Retryable where the body has ended before its announced length."""
    if total is not None and done < total:
        raise Retryable(f"the connection ended after {_of(done, total)}")


def length_of(response: http.client.HTTPResponse) -> int | None:
    """Bytes of the body, as announced."""
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def failed(remote: Remote, problem: str, *, remedy: str = GO_ON, network: bool = False) -> BadDownload:
    """The error for a file that cannot be had; `network` if others would meet with the same."""
    return BadDownload(f"{remote.name}: could not be fetched from {remote.url}: {problem}.  {remedy}", problem, network=network)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, to other hosts too, but never from an encrypted connection to one that is not."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            problem = f"the server redirects to {newurl}, which is not encrypted"
            raise BadDownload(f"{req.full_url}: {problem}.  Tell those who run the server.", problem)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refused(remote: Remote, error: urllib.error.HTTPError) -> Exception:
    """What an HTTP state of 300 and above means for the file."""
    with error:
        if 300 <= error.code < 400:
            return failed(remote, f"the server redirects in circles, or to nowhere (HTTP {error.code})")
        problem = f"the server answers {error.code} {error.reason}"
        if error.code == 416:                               # it has less than was kept: another file by now
            return Retryable(problem, anew=True)
        if error.code in WORTH_ANOTHER_TRY:
            return Retryable(problem, wait=_retry_after(error.headers.get("Retry-After")))
        return failed(remote, problem, remedy="Check whether its publisher has moved it.")


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date; None where there is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _of(done: int, total: int | None) -> str:
    return f"{done} bytes" if total is None else f"{done} of {total} bytes"


def _words(error: Exception) -> str:
    return f"nothing came for {TIMEOUT_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """The system's, with certifi's added: Pythons that are not the system's own often find none."""
    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context
