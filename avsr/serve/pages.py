"""The page in a browser: its files, and what it asks of the server beside OpenAI's interface.

    GET /, /page/NAME            the files in the folder `page`, of this package alone, with headers that forbid all others
    GET /page/about              what this server can do, as JSON
    POST /page/subtitles/FORMAT  the transcript that the page shows (verbose_json) -> srt or vtt, by avsr.transcript
    POST /page/noisy             a recording and a level of noise -> its text by sound, lips and both; see noisy.py
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from avsr.errors import AvsrError
from avsr.noise import NoiseSource
from avsr.serve.noisy import Read, read_in_noise
from avsr.transcript import Segment, Transcript, Word, format_transcript

KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}
# Scripts, styles and connections are this server's alone; what was recorded is shown from the page's own memory.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
                               "media-src blob: data:; connect-src 'self'; worker-src 'self'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=(), display-capture=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
OWN_BABBLE = ("Add noise to this recording and read it again. The babble is made of its own voices: six copies, higher and lower, "
              "from other places on. Other people's voices would be a little easier to tell from it.")
OTHER_BABBLE = "Add noise to this recording and read it again. The babble is made of the voices that this server was started with."
SUBTITLES = {"srt": "application/x-subrip; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}


@dataclass(frozen=True)
class PageContext:
    """What the page needs of the server.

    about: model, modalities, version, needs_key, as the page is told them. read: how a recording is read, see noisy.Read.
    in_turn: runs work in a thread when it is its turn among all requests. babble: see noisy.read_in_noise.
    """

    about: Mapping[str, Any]
    read: Read
    in_turn: Callable[[Callable[[], Any]], Awaitable[Any]]
    babble: NoiseSource | None = None


def page_files() -> dict[str, bytes]:
    """The files of the page by name."""
    return {one.name: one.read_bytes() for one in files("avsr.serve").joinpath("page").iterdir()
            if one.name.rpartition(".")[2] in KINDS}


def page_router() -> APIRouter:
    """The routes of the page's files."""
    router, content = APIRouter(include_in_schema=False), page_files()

    def answer(name: str) -> Response:
        return Response(content[name], media_type=KINDS[name.rpartition(".")[2]], headers=HEADERS)

    @router.get("/")
    async def index() -> Response:
        return answer("index.html")

    @router.get("/page/file/{name}")
    async def file(name: str) -> Response:
        return answer(name) if name in content else Response("There is no such file.", 404, media_type="text/plain")

    return router


def page_services(context: PageContext) -> APIRouter:
    """The routes that the page asks, which may need a key."""
    router = APIRouter(include_in_schema=False)

    @router.post("/page/subtitles/{kind}")
    async def subtitles(kind: str, request: Request) -> Response:
        if kind not in SUBTITLES:
            raise AvsrError(f"{kind}: not a format of subtitles.  Use one of {', '.join(SUBTITLES)}.")
        try:
            transcript = transcript_of(await request.json())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AvsrError("This is no transcript as verbose_json has it.  Send one with segments and their words.") from error
        return Response(format_transcript(transcript, kind), media_type=SUBTITLES[kind], headers=HEADERS)

    @router.post("/page/noisy")
    async def noisy(file: UploadFile = File(), noise: str = Form("babble"), snr_db: float = Form(0.0),
                    modalities: str = Form("a,v,av")) -> Response:
        ways = [one for one in modalities.split(",") if one in ("a", "v", "av")]
        recording = await file.read()
        reading = await context.in_turn(lambda: read_in_noise(recording, noise=noise, snr_db=snr_db, read=context.read,
                                                              modalities=ways, babble=context.babble))
        return JSONResponse(reading.row(), headers=HEADERS)

    return router


def transcript_of(row: Mapping[str, Any]) -> Transcript:
    """A Transcript from verbose_json. Raises ValueError, TypeError, KeyError or AttributeError where it is none."""
    segments = tuple(_segment(one) for one in row["segments"])
    return Transcript(str(row.get("text", "")), segments, str(row.get("language", "en")), "", "", "", float(row.get("duration") or 0))


def _segment(row: Mapping[str, Any]) -> Segment:
    words = tuple(Word(str(one["word"]), float(one["start"]), float(one["end"]), speakers=_speakers(one))
                  for one in row.get("words") or ())
    return Segment(str(row["text"]), float(row["start"]), float(row["end"]), words, speakers=_speakers(row))


def _speakers(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "speaker" not in row:
        return None
    several = row.get("speakers") or ([row["speaker"]] if row["speaker"] else [])
    return tuple(str(one) for one in several)
