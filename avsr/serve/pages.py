"""The page in a browser: its files, and what it asks of the server beside OpenAI's interface.

    GET /, /page/file/NAME       the files in the folder `page`
    GET /page/about              what this server can do, as JSON
    POST /page/subtitles/FORMAT  the transcript that the page shows (verbose_json) -> srt or vtt, by avsr.transcript
    POST /page/noisy             a recording and a level of noise -> its text by sound, lips and both; see noisy.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile

from avsr import __version__
from avsr.modality import check_modality
from avsr.names import INPUT_MODALITIES
from avsr.noise import NoiseSource
from avsr.serve.answers import MEDIA_TYPES
from avsr.serve.form import FIELD_BYTES
from avsr.serve.jobs import Cancelled, Job, finished
from avsr.serve.noisy import open_babble, read_in_noise
from avsr.serve.problems import ApiError
from avsr.serve.transcriptions import GONE, Work
from avsr.text import language_code
from avsr.transcript import Segment, Transcript, Word, format_transcript

KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}
OWN_BABBLE = ("Add noise to this recording and read it again. The babble is made of its own voices, as six copies that are "
              "higher or lower and begin elsewhere: they stand in for a crowd, which may disturb more, or less.")
OTHER_BABBLE = "Add noise to this recording and read it again. The babble is of the voices that this server was started with."


def page_router(work: Work) -> APIRouter:
    """The routes. Raises AvsrError where the folder of babble has no recordings."""
    router, content, babble = APIRouter(include_in_schema=False), _page_files(), work.settings.babble
    source = None if babble is None else open_babble(Path(babble))

    def answer(name: str) -> Response:
        return Response(content[name], media_type=KINDS[name.rpartition(".")[2]])

    @router.get("/")
    async def index() -> Response:
        return answer("index.html")

    @router.get("/page/file/{name}")
    async def file(name: str) -> Response:
        if name not in content:
            raise ApiError(404, "The page has no such file.", code="not_found")
        return answer(name)

    @router.get("/page/about")
    async def about() -> Response:
        return JSONResponse(work.model.row() | {"version": __version__, "needs_key": work.settings.api_key is not None,
                                                "noise": OWN_BABBLE if source is None else OTHER_BABBLE})

    @router.post("/page/subtitles/{kind}")
    async def subtitles(kind: str, request: Request) -> Response:
        if kind not in MEDIA_TYPES:
            raise ApiError(404, f"{kind[:40]!r} is no format of subtitles.  Use one of {', '.join(MEDIA_TYPES)}.",
                           code="not_found")
        try:
            transcript = transcript_of(json.loads(await request.body()))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ApiError(400, "This is no transcript as verbose_json has it.  Send one with its segments and their words.",
                           code="invalid_value") from error
        return Response(format_transcript(transcript, kind), media_type=f"{MEDIA_TYPES[kind]}; charset=utf-8")

    @router.post("/page/noisy")
    async def noisy(request: Request) -> Response:
        return await _noisy(request, work, source)

    return router


def _page_files() -> dict[str, bytes]:
    """The files of the page by name."""
    return {one.name: one.read_bytes() for one in files("avsr.serve").joinpath("page").iterdir()
            if one.name.rpartition(".")[2] in KINDS}


async def _noisy(request: Request, work: Work, babble: NoiseSource | None) -> Response:
    """Read a recording in noise, as a job among those of other requests."""
    async with AsyncExitStack() as stack:
        stack.enter_context(work.jobs.place())
        form = await stack.enter_async_context(request.form(max_files=1, max_fields=8, max_part_size=FIELD_BYTES))
        upload = form.get("file")
        if not isinstance(upload, UploadFile) or not upload.size:
            raise ApiError(400, "The field file is missing or empty.  Send one recording.", code="missing_file", param="file")

        def work_on(job: Job) -> dict[str, Any]:
            def read(source: bytes, modality: str) -> Transcript:
                if modality == "auto":                       # lips alone, if they are believed
                    check_modality(work.model.for_request(None, "v"), "v")
                return work.transcribe(source, job, modality=modality)

            ways = [one for one in str(form.get("modalities", "a,v,av")).split(",") if one in INPUT_MODALITIES]
            return read_in_noise(upload.file, noise=str(form.get("noise", "babble"))[:40], snr_db=_number(form.get("snr_db")),
                                 read=read, modalities=ways, babble=babble).row()

        try:
            return JSONResponse(await finished(work.job(work_on), request.is_disconnected))
        except Cancelled:
            return Response(status_code=GONE)


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan                                      # which read_in_noise refuses


def transcript_of(row: Mapping[str, Any]) -> Transcript:
    """A Transcript from verbose_json, as subtitles need it. Raises ValueError, TypeError, KeyError or AttributeError where it
    is none."""
    segments = tuple(_segment(one) for one in row["segments"])
    return Transcript(str(row["text"]), segments, language_code(str(row["language"])), "", "", "", _seconds(row["duration"]))


def _segment(row: Mapping[str, Any]) -> Segment:
    speakers = _speakers(row)
    words = tuple(Word(str(one["word"]), _seconds(one["start"]), _seconds(one["end"]),
                       speakers=_speakers(one) if "speaker" in one else speakers) for one in row.get("words") or ())
    return Segment(str(row["text"]), _seconds(row["start"]), _seconds(row["end"]), words, speakers=speakers)


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < 1e6:                               # also where it is no number
        raise ValueError(seconds)
    return seconds


def _speakers(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "speaker" not in row:
        return None
    several = row.get("speakers") or ([row["speaker"]] if row["speaker"] else [])
    return tuple(str(one) for one in several)
