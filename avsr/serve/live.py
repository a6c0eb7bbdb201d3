"""The WebSocket `/v1/live`: sound and pictures in while they are taken, words out as they are found.

The client begins with a text message, JSON; all fields but `type` may be left out, and this shows what they are then:

    {"type": "start", "media": "webm", "modality": "auto", "language": null, "speakers": false, "sound": true,
     "picture": true, "api_key": null}

media: `webm` for a container, `pcm` for sound and pictures apart; then `sample_rate` is that of the sound, 16 kHz if it is
left out. modality: auto, a (sound), v (lips), av. sound, picture: what will come. api_key: for pages, which cannot set the
header Authorization. Then come binary messages. For webm each holds the next bytes of the container, as a browser's
MediaRecorder gives them; it may be any other that FFmpeg reads from a pipe. For pcm the first byte of each tells what follows:
1, sound, 16-bit little-endian mono PCM; 2, a picture, its time in seconds from the start of the sound as a little-endian
float64, and a JPEG. `{"type": "end"}` ends the recording. Whoever closes the socket without it wants nothing more: all that is
in memory is dropped.

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
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from fastapi import APIRouter
from fastapi.websockets import WebSocket, WebSocketDisconnect

from avsr.errors import quote
from avsr.live import LiveRecogniser, LiveSettings
from avsr.names import INPUT_MODALITIES
from avsr.rates import SAMPLE_RATE, frames_to_seconds
from avsr.serve.answers import verbose
from avsr.serve.pcm import SAMPLE_RATES, PcmMessages
from avsr.serve.problems import RETRY_S, ApiError, as_api_error
from avsr.serve.session import ContainerSource, LiveSession, LiveSource
from avsr.serve.transcriptions import Work

MESSAGE_BYTES = 2**21                 # of a message of a client
WAITING = 2**22                       # bytes that wait to be decoded before no more are taken from the socket: some seconds
START_S = 10.0                        # seconds in which the first message must come
IDLE_S = 30.0                         # a client that sends nothing for so many seconds is gone
POLL_S = 0.02
CHECK_S = 0.25                        # seconds after which it is seen that a session has ended by itself
TO_SEND_S = 10.0                      # seconds that a client may take to receive a message before it counts as gone
OVER, TRY_LATER, REFUSED = 1000, 1013, 1008                  # why a socket is closed, by RFC 6455


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


def _wrong(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)


def read_start(text: str) -> LiveStart:
    """The first message. Raises ApiError, naming the field that is wrong."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or row.pop("type", None) != "start":
        raise _wrong('The first message must be a JSON text with "type": "start".', "type")
    known = {one.name: one for one in fields(LiveStart)}
    for name, value in row.items():
        if name not in known:
            raise _wrong(f"The first message has an unknown field {quote(name)}.  Leave it out.", str(name)[:40])
        kind = type(known[name].default)
        optional = known[name].default is None
        if not (type(value) is kind or (optional and (value is None or isinstance(value, str)))):
            raise _wrong(f"{name} is {quote(value)}, but must be like {json.dumps(known[name].default)}.", name)
    start = LiveStart(**row)
    for name, value, choices in (("media", start.media, ("webm", "pcm")),
                                 ("modality", start.modality, ("auto", *INPUT_MODALITIES))):
        if value not in choices:
            raise _wrong(f"{name} is {quote(value)}, but must be one of {', '.join(choices)}.", name)
    low, high = SAMPLE_RATES
    if not low <= start.sample_rate <= high:
        raise _wrong(f"sample_rate is {start.sample_rate}, but must be from {low} to {high}.", "sample_rate")
    if not (start.sound or start.picture):
        raise _wrong("Neither sound nor picture will come.  Announce one of them.", "sound")
    return start


def live_router(work: Work) -> APIRouter:
    """The route `/v1/live`. Pages of other origins are refused by the guard, before it is asked."""
    router = APIRouter()
    running: set[object] = set()

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        inbox, token, most = _Inbox(socket), object(), work.settings.live_sessions
        try:
            start = await _start(socket, inbox, work.settings.api_key)
            if len(running) >= most:
                raise ApiError(503, f"{len(running)} live recordings are going on, and this server takes {most} at once.  Try "
                                    "again later.", code="overloaded", retry_s=RETRY_S)
            running.add(token)
            await _follow(socket, inbox, start, work)
        except ApiError as error:
            await _refuse(socket, error)
        except (WebSocketDisconnect, RuntimeError):          # RuntimeError: it was sent to after it had gone
            pass
        finally:
            inbox.close()
            running.discard(token)

    return router


class _Inbox:
    """What a client sends, one message after another; to stop waiting for one loses nothing."""

    def __init__(self, socket: WebSocket):
        self.socket = socket
        self._next: asyncio.Task[Any] | None = None

    async def get(self, patience_s: float) -> bytes | str | None:
        """The next message; None where none comes in time. Raises WebSocketDisconnect where the client has gone, and ApiError
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
        if len(content) > MESSAGE_BYTES:
            raise ApiError(413, f"A message has {len(content)} bytes, and {MESSAGE_BYTES} are allowed.  Send media in smaller "
                                "pieces.", code="message_too_large")
        return content

    def close(self) -> None:
        """Wait for nothing more."""
        if self._next is not None:
            self._next.cancel()


async def _refuse(socket: WebSocket, error: ApiError) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_json({"type": "error", **error.content})
        await socket.close(TRY_LATER if error.retry_s is not None else REFUSED)


async def _start(socket: WebSocket, inbox: _Inbox, api_key: str | None) -> LiveStart:
    message = await inbox.get(START_S)
    start = read_start(message if isinstance(message, str) else "")
    if api_key is not None:
        given = socket.headers.get("authorization", "").removeprefix("Bearer ").strip() or start.api_key or ""
        if not hmac.compare_digest(given.encode(), api_key.encode()):
            raise ApiError(401, "The API key is missing or wrong.  Give it as api_key in the first message.",
                           code="invalid_api_key", param="api_key")
    return start


async def _follow(socket: WebSocket, inbox: _Inbox, start: LiveStart, work: Work) -> None:
    """Recognise until the client ends the recording, or goes away."""
    loop = asyncio.get_running_loop()

    def send(message: dict[str, Any]) -> None:               # in a thread of the session
        sending = asyncio.run_coroutine_threadsafe(socket.send_json(message), loop)
        try:
            sending.result(TO_SEND_S)
        except Exception as error:
            sending.cancel()
            raise OSError("the client has gone") from error

    live, ready = await asyncio.to_thread(_open, start, work)
    source = _open_source(start, live)
    session = LiveSession(source, live, send, lambda: verbose(live.transcript(), ("word",)),
                          longest_s=work.settings.max_minutes * 60)
    try:
        session.start()
        await socket.send_json(ready)
        await _feed(inbox, source, session)
        while not session.is_over:                           # the rest; who goes away now wants none of it
            await inbox.get(POLL_S)
        await socket.close(OVER)
    finally:
        session.stop()
        while not session.is_over:                           # until then it counts as one of the sessions
            await asyncio.sleep(POLL_S)


def _open(start: LiveStart, work: Work) -> tuple[LiveRecogniser, dict[str, Any]]:
    """The recogniser, and the message that says that it is ready. Raises ApiError for what the model cannot do."""
    try:
        live = LiveRecogniser(work.model.for_request(None, start.modality), modality=start.modality, language=start.language,
                              has_audio=start.sound, has_video=start.picture, settings=LiveSettings(speakers=start.speakers))
    except Exception as error:
        raise as_api_error(error) from error
    lag = live.reader.lag if "v" in live.modality else 0
    return live, {"type": "ready", "model": work.model.name, "modality": live.modality, "lips_delay_s": frames_to_seconds(lag)}


def _open_source(start: LiveStart, live: LiveRecogniser) -> LiveSource:
    """What decodes the media that a client sends, as far as it is used."""
    use = {"has_audio": live.recording.has_audio, "has_video": live.recording.has_video}
    return ContainerSource(**use) if start.media == "webm" else PcmMessages(start.sample_rate, **use)


async def _feed(inbox: _Inbox, source: LiveSource, session: LiveSession) -> None:
    """Take in what the client sends until it ends the recording. Where much waits, no more is taken from the socket."""
    waited_s = 0.0
    while not session.is_over:
        if source.n_waiting > WAITING:
            await asyncio.sleep(POLL_S)
            continue
        message = await inbox.get(CHECK_S)
        waited_s = waited_s + CHECK_S if message is None else 0.0
        if waited_s > IDLE_S:
            raise ApiError(408, f"Nothing has come for {IDLE_S:.0f} s, so the recording was ended.", code="request_timeout")
        if isinstance(message, bytes):
            source.feed(message)
        elif message is not None and _is_end(message):
            source.end()
            return
        elif message is not None:
            raise _wrong('After the first message only media and {"type": "end"} may come.', "type")


def _is_end(text: str) -> bool:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and row.get("type") == "end"
