"""The WebSocket `/v1/live`: sound and pictures in while they are taken, words out as they are found.

The client begins with a text message, JSON; all fields but `type` may be left out, and this shows what they are then:

    {"type": "start", "media": "webm", "sample_rate": 16000, "modality": "auto", "language": null, "speakers": false,
     "sound": true, "picture": true, "api_key": null}

media: `webm` for a container, `pcm` for sound and pictures apart. modality: auto, a (sound), v (lips), av. sound, picture: what
will come. api_key: for pages, which cannot set the header Authorization. Then come binary messages. For webm each holds
the next bytes of the container, as a browser's MediaRecorder gives them; it may be any other that FFmpeg reads from a pipe.
For pcm the first byte of each tells what follows: 1, sound, 16-bit little-endian mono PCM; 2, a picture, its time in seconds
from the start of the sound as a little-endian float64, and a JPEG. `{"type": "end"}` ends the recording. Whoever closes the
socket without it wants nothing more: all that is in memory is dropped.

The server sends text messages, JSON:

    {"type": "ready", "model": "default", "modality": "av", "lips_delay_s": 0.5}    media may come
    {"type": "text", "committed": [word, ...], "pending": [word, ...], "end": 3.2, "behind": 0.4}
    {"type": "mouth", "jpeg": base64, "time": 2.9, "believed": 0.93}
    {"type": "problem", "message": "..."}                           one sentence for people; the recording goes on
    {"type": "error", "error": {"message": ..., "type": ..., "param": ..., "code": ...}}    as in OpenAI's interface; it is over
    {"type": "done", "transcript": {...}}                           as response_format verbose_json with words; it is over

A word is {"word": " blue", "start": 1.2, "end": 1.5, "confidence": 0.9}, with `speaker` where speakers are told. committed: the
words that are new and never change; pending: those that follow all committed ones and may still change, all of them each time.
end: seconds of the recording that the text knows; behind: by how many seconds that lags. mouth: the mouth that is watched, 96
pixels wide; believed: from 0 to 1, how far lips count. lips_delay_s: lips are known after so many seconds at most.

Nothing is written to a disk, and nothing is kept after the socket is closed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from fastapi.websockets import WebSocket, WebSocketDisconnect

from avsr.errors import AvsrError, quote
from avsr.live import LiveRecogniser, LiveSettings
from avsr.names import INPUT_MODALITIES
from avsr.rates import SAMPLE_RATE, frames_to_seconds
from avsr.serve.pcm import SAMPLE_RATES, PcmMessages
from avsr.serve.session import ContainerSource, LiveSession, LiveSource, error_message

WAITING = 2**22                       # bytes that wait to be decoded before no more are taken from the socket: some seconds
START_S = 10.0                        # seconds in which the first message must come
POLL_S = 0.02
CHECK_S = 0.25                        # seconds after which it is seen that a session has ended by itself
TO_SEND_S = 10.0                      # seconds that a client may take to receive a message before it counts as gone
OVER, TRY_LATER, REFUSED = 1000, 1013, 1008                  # why a socket is closed, by RFC 6455


@dataclass(frozen=True)
class LiveLimits:
    """What live recognition may take.

    sessions: recordings at once. message_bytes: the largest message. duration_s: the longest recording. idle_s: a client that
    sends nothing for so many seconds is gone. api_key: the key that must be given; None for none. origins: of pages of other
    servers that may connect, such as https://example.org.
    """

    sessions: int = 4
    message_bytes: int = 2**21
    duration_s: float = 3600.0
    idle_s: float = 30.0
    api_key: str | None = None
    origins: Sequence[str] = ()


@dataclass(frozen=True)
class LiveStart:
    """The first message of a client; see the top of this file."""

    media: str = "webm"
    sample_rate: int = SAMPLE_RATE
    modality: str = "auto"
    language: str | None = None
    speakers: bool = False
    sound: bool = True
    picture: bool = True
    api_key: str | None = None


class Refused(AvsrError):
    """A recording that is not begun. param, code: see error_message; closing: why the socket is closed."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None,
                 type: str = "invalid_request_error", closing: int = REFUSED):
        super().__init__(message)
        self.param, self.code, self.type, self.closing = param, code, type, closing


def read_start(text: str) -> LiveStart:
    """The first message. Raises Refused, naming the field that is wrong."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or row.pop("type", None) != "start":
        raise Refused('The first message must be a JSON text with "type": "start".', param="type")
    known = {one.name: one for one in fields(LiveStart)}
    for name, value in row.items():
        if name not in known:
            raise Refused(f"The first message has an unknown field {quote(name)}.  Leave it out.", param=str(name)[:40])
        kind = type(known[name].default)
        optional = known[name].default is None
        if not (type(value) is kind or (optional and (value is None or isinstance(value, str)))):
            raise Refused(f"{name} is {quote(value)}, but must be like {json.dumps(known[name].default)}.", param=name)
    start = LiveStart(**row)
    for name, value, choices in (("media", start.media, ("webm", "pcm")),
                                 ("modality", start.modality, ("auto", *INPUT_MODALITIES))):
        if value not in choices:
            raise Refused(f"{name} is {quote(value)}, but must be one of {', '.join(choices)}.", param=name)
    low, high = SAMPLE_RATES
    if not low <= start.sample_rate <= high:
        raise Refused(f"sample_rate is {start.sample_rate}, but must be from {low} to {high}.", param="sample_rate")
    if not (start.sound or start.picture):
        raise Refused("Neither sound nor picture will come.  Announce one of them.", param="sound")
    return start


def is_same_site(origin: str | None, host: str | None, allowed: Sequence[str]) -> bool:
    """Whether a page may connect: one of this server, or one that is allowed. origin: None for a program, which is no page.

    A browser lets pages of any site connect to any WebSocket and only tells where they come from, so the server must look.
    """
    if origin is None or origin.rstrip("/").lower() in {one.rstrip("/").lower() for one in allowed}:
        return True
    return host is not None and urlsplit(origin).netloc.lower() == host.lower()


def live_router(open_live: Callable[..., LiveRecogniser], finish: Callable[[LiveRecogniser], Any],
                limits: LiveLimits = LiveLimits()) -> APIRouter:
    """The route `/v1/live`.

    open_live: makes a recogniser from the keywords modality, language, has_audio, has_video and settings; called in a thread.
    finish: what `done` holds as `transcript`.
    """
    router = APIRouter()
    running: set[object] = set()

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        if not is_same_site(socket.headers.get("origin"), socket.headers.get("host"), limits.origins):
            await socket.close(REFUSED, "another site's page")           # before it is accepted, so the answer is 403
            return
        await socket.accept()
        inbox, token = _Inbox(socket, limits.message_bytes), object()
        try:
            start = await _start(socket, inbox, limits)
            if len(running) >= limits.sessions:
                raise Refused(f"{len(running)} live recordings are going on, the most that this server takes.  Try again later.",
                              code="rate_limit_exceeded", type="rate_limit_error", closing=TRY_LATER)
            running.add(token)
            await _follow(socket, inbox, start, open_live, finish, limits)
        except Refused as error:
            await _refuse(socket, error)
        except (WebSocketDisconnect, RuntimeError):          # RuntimeError: it was sent to after it had gone
            pass
        finally:
            inbox.close()
            running.discard(token)

    return router


class _Inbox:
    """What a client sends, one message after another; to stop waiting for one loses nothing."""

    def __init__(self, socket: WebSocket, message_bytes: int):
        self.socket, self.message_bytes = socket, message_bytes
        self._next: asyncio.Task[Any] | None = None

    async def get(self, patience_s: float) -> bytes | str | None:
        """The next message; None where none comes in time. Raises WebSocketDisconnect where the client has gone, and Refused
        for a message that is too large."""
        if self._next is None:
            self._next = asyncio.ensure_future(self.socket.receive())
        done, _ = await asyncio.wait({self._next}, timeout=patience_s)
        if not done:
            return None
        message, self._next = self._next.result(), None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", OVER))
        content = message.get("bytes")
        content = message.get("text") if content is None else content
        if len(content) > self.message_bytes:
            raise Refused(f"A message has {len(content)} bytes, and {self.message_bytes} are allowed.  Send media in smaller "
                          "pieces.", code="message_too_large")
        return content

    def close(self) -> None:
        """Wait for nothing more."""
        if self._next is not None:
            self._next.cancel()


async def _refuse(socket: WebSocket, error: Refused) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_json(error_message(str(error), param=error.param, code=error.code, type=error.type))
        await socket.close(error.closing)


async def _start(socket: WebSocket, inbox: _Inbox, limits: LiveLimits) -> LiveStart:
    message = await inbox.get(START_S)
    if not isinstance(message, str):
        raise Refused('The first message must be a JSON text with "type": "start".', param="type")
    start = read_start(message)
    if limits.api_key is not None:
        scheme, _, given = socket.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else start.api_key or ""
        if not hmac.compare_digest(given.encode(), limits.api_key.encode()):
            raise Refused("The API key is missing or wrong.  Give it as api_key in the first message.", code="invalid_api_key",
                          type="authentication_error")
    return start


async def _follow(socket: WebSocket, inbox: _Inbox, start: LiveStart, open_live: Callable[..., LiveRecogniser],
                  finish: Callable[[LiveRecogniser], Any], limits: LiveLimits) -> None:
    """Recognise until the client ends the recording, or goes away."""
    loop = asyncio.get_running_loop()

    def send(message: dict[str, Any]) -> None:               # in a thread of the session
        sending = asyncio.run_coroutine_threadsafe(socket.send_json(message), loop)
        try:
            sending.result(TO_SEND_S)
        except Exception as error:
            sending.cancel()
            raise OSError("the client has gone") from error

    recogniser, ready = await asyncio.to_thread(_open, start, open_live)
    source = open_source(start, recogniser)
    session = LiveSession(source, recogniser, send, finish, longest_s=limits.duration_s)
    try:
        session.start()
        await socket.send_json(ready)
        await _feed(inbox, source, session, limits)
        while not session.is_over:                           # the rest; who goes away now wants none of it
            await inbox.get(POLL_S)
        await socket.close(OVER)
    finally:
        session.stop()
        while not session.is_over:                           # until then it counts as one of the sessions
            await asyncio.sleep(POLL_S)


def _open(start: LiveStart, open_live: Callable[..., LiveRecogniser]) -> tuple[LiveRecogniser, dict[str, Any]]:
    """The recogniser, and the message that says that it is ready."""
    try:
        live = open_live(modality=start.modality, language=start.language, has_audio=start.sound, has_video=start.picture,
                         settings=LiveSettings(speakers=start.speakers))
    except AvsrError as error:
        raise Refused(str(error)) from error
    lag = live.reader.lag if "v" in live.modality else 0
    return live, {"type": "ready", "model": live.checkpoint.name, "modality": live.modality,
                  "lips_delay_s": frames_to_seconds(lag)}


def open_source(start: LiveStart, recogniser: LiveRecogniser) -> LiveSource:
    """What decodes the media that a client sends, as far as it is used."""
    use = {"has_audio": recogniser.recording.has_audio, "has_video": recogniser.recording.has_video}
    return ContainerSource(**use) if start.media == "webm" else PcmMessages(start.sample_rate, **use)


async def _feed(inbox: _Inbox, source: LiveSource, session: LiveSession, limits: LiveLimits) -> None:
    """Take in what the client sends until it ends the recording. Where much waits, no more is taken from the socket."""
    waited_s = 0.0
    while not session.is_over:
        if source.n_waiting > WAITING:
            await asyncio.sleep(POLL_S)
            continue
        message = await inbox.get(CHECK_S)
        waited_s = waited_s + CHECK_S if message is None else 0.0
        if waited_s > limits.idle_s:
            raise Refused(f"Nothing has come for {limits.idle_s:.0f} s, so the recording was ended.", code="timeout")
        if isinstance(message, bytes):
            source.feed(message)
        elif message is not None and _is_end(message):
            source.end()
            return
        elif message is not None:
            raise Refused('After the first message only media and {"type": "end"} may come.', param="type")


def _is_end(text: str) -> bool:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and row.get("type") == "end"
