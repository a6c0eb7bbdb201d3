"""How a server behaves: whom it answers, and what a request may take."""

from __future__ import annotations

import os
from dataclasses import dataclass

from avsr.errors import AvsrError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY_VARIABLE = "AVSR_API_KEY"


@dataclass(frozen=True)
class ServeSettings:
    """What `avsr serve --help` lists.

    host, port: where it listens. api_key: what clients must send as `Authorization: Bearer KEY`; None for no key, which
    is possible on this machine alone. allow_origins: addresses of pages, such as https://example.org, whose scripts may use the
    server. max_megabytes: of an upload. max_minutes: of a recording. max_waiting: requests that wait at most, beside those at
    work. requests_a_minute: from one address. slow_s: seconds in which some of a request must come. live_sessions: recordings
    that are recognised live at once. babble: a folder of recordings for the page's babble noise.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allow_origins: tuple[str, ...] = ()
    max_megabytes: float = 500.0
    max_minutes: float = 120.0
    max_waiting: int = 64
    requests_a_minute: int = 600
    slow_s: float = 20.0
    live_sessions: int = 2
    babble: str | None = None

    def __post_init__(self):
        if self.api_key is not None and not self.api_key.strip():
            raise AvsrError("--api-key: it is empty.  Give a key of some letters, or leave it out on this machine alone.")
        if not self.is_loopback and self.api_key is None:
            raise AvsrError(f"--host {self.host}: other machines could use the server, and there is no key.  Give one with "
                            f"--api-key or the variable {KEY_VARIABLE}, or leave out --host.")
        if bad := [one for one in self.allow_origins if one != "*" and "://" not in one]:
            raise AvsrError(f"--allow-origin {bad[0]}: not the origin of a page.  Write it as https://example.org.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def key_from_environment(given: str | None) -> str | None:
    """The key that was given, or that of the variable AVSR_API_KEY."""
    return given if given is not None else os.environ.get(KEY_VARIABLE) or None
