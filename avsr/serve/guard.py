"""Who may ask, and how much of a request is taken in: the outermost layer of the server.

Host names other than this machine's are refused on loopback, so that no page can reach the server by a name that it has made
point here (DNS rebinding). A request that a page of another origin sends is refused, unless that origin was allowed.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avsr.serve.problems import ApiError
from avsr.serve.settings import LOOPBACK, ServeSettings

PRIVATE = ("/v1/", "/page/noisy", "/page/subtitles")       # paths that need the key, if there is one
SMALL_BYTES = 2**16                                         # of a request that uploads nothing
SLOWEST = 1000                                              # bytes a second of a body, after the first `slow_s` seconds
REMEMBERED = 10_000                                         # addresses whose requests are counted
# The page's own scripts and styles alone, no frame of another page, media from memory; `blob:` is what a page plays and offers
# for download, `data:` the mouth.
POLICY = ("default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob: data:; "
          "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
           "cross-origin-resource-policy": "same-origin", "cache-control": "no-store",
           "permissions-policy": "camera=(self), microphone=(self)"}


class Guard:
    """The layer around an app that refuses what may not be asked."""

    def __init__(self, app: ASGIApp, settings: ServeSettings):
        self.app, self.settings = app, settings
        self._asked: OrderedDict[str, list[float]] = OrderedDict()      # address -> [tokens left, time]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        try:
            self._check(scope)
        except ApiError as error:
            if scope["type"] == "websocket":
                await receive()                              # the request to open it
                return await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return await error.response(scope, receive, self._with_headers(scope, send))
        if scope["type"] == "websocket":
            return await self.app(scope, receive, send)
        try:
            await self.app(scope, self._limited(scope, receive), self._with_headers(scope, send))
        except ApiError as error:                            # raised while the body was received
            await error.response(scope, receive, self._with_headers(scope, send))

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.settings.is_loopback and _host_name(host) not in LOOPBACK:
            raise ApiError(421, "This server answers only to names of this machine.  Ask for 127.0.0.1 or localhost.",
                           code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and not self._allows(origin, host):
            raise ApiError(403, "A page of another origin may not use this server.  Start it with --allow-origin to allow "
                                "that.", code="origin_not_allowed")
        path = scope["path"]
        if path.startswith(PRIVATE) and scope["type"] == "http" and scope["method"] != "OPTIONS":
            self._check_key(headers.get("authorization", ""))
            self._count(str((scope.get("client") or ("?",))[0]))

    def _allows(self, origin: str, host: str) -> bool:
        allowed = self.settings.allow_origins
        return urlsplit(origin).netloc == host or "*" in allowed or origin in allowed

    def _check_key(self, authorization: str) -> None:
        key = self.settings.api_key
        given = authorization.removeprefix("Bearer ").strip()
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "The API key is missing or wrong.  Send the header Authorization: Bearer KEY.",
                           code="invalid_api_key")

    def _count(self, address: str) -> None:
        """Let each address ask so often a minute, and for a minute's requests at once (a token bucket)."""
        most, now = float(self.settings.requests_a_minute), time.monotonic()
        left, last = self._asked.pop(address, [most, now])
        left = min(most, left + (now - last) * most / 60)
        self._asked[address] = [max(0.0, left - 1), now]
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        if left < 1:
            raise ApiError(429, f"More than {most:g} requests a minute came from this address.  Ask more slowly.",
                           code="rate_limit_exceeded", retry_s=max(1, round(60 / most)))

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, which raises ApiError for a body that is too large, or does not come."""
        uploads = scope["method"] == "POST" and scope["path"].startswith(PRIVATE)
        most = int(self.settings.max_megabytes * 1e6) if uploads else SMALL_BYTES
        received, ended, began = 0, scope["method"] in ("GET", "HEAD"), time.monotonic()

        async def limited() -> Message:
            nonlocal received, ended
            if ended:                                        # what comes now is the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.settings.slow_s)
            except TimeoutError as error:
                raise self._too_slow() from error
            if received < (time.monotonic() - began - self.settings.slow_s) * SLOWEST:
                raise self._too_slow()
            received += len(message.get("body", b""))
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            if received > most:
                raise ApiError(413, f"The request is larger than {most / 1e6:g} MB.  Cut the recording, or start the server "
                                    "with a larger --max-megabytes.", code="request_too_large", param="file")
            return message

        return limited

    def _too_slow(self) -> ApiError:
        return ApiError(408, f"Too little of the request came in {self.settings.slow_s:g} s.  Send it again.",
                        code="request_timeout")

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        origin = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), None)
        more = dict(HEADERS)
        if origin is not None and (origin in self.settings.allow_origins or "*" in self.settings.allow_origins):
            more |= {"access-control-allow-origin": origin, "vary": "origin",
                     "access-control-allow-headers": "authorization, content-type",
                     "cross-origin-resource-policy": "cross-origin"}

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in more.items()
                                                             if name.encode() not in own)]
            await send(message)

        return answered


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    return (urlsplit(f"//{host}").hostname or "") if host and "@" not in host else ""
