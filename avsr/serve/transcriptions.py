"""OpenAI's routes: POST /v1/audio/transcriptions and /v1/audio/translations, GET /v1/models.

    form -> temporary file without a name -> Jobs -> transcribe, in batches that requests share -> answer, or stream of events
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from avsr.errors import BadMedia
from avsr.serve.answers import answer, done_event, error_event, segment_events
from avsr.serve.form import FIELD_BYTES, MOST_FIELDS, Asked, read_form
from avsr.serve.jobs import Cancelled, Job, Jobs, finished
from avsr.serve.models import ServedModel
from avsr.serve.problems import GONE, as_api_error
from avsr.serve.settings import ServeSettings
from avsr.transcribe import transcribe
from avsr.transcribe.batches import SharedBatches
from avsr.transcript import Segment, Transcript


@dataclass(frozen=True)
class Work:
    """What the requests of a server share. batches: None for a pool of each request's own."""

    model: ServedModel
    jobs: Jobs
    settings: ServeSettings
    batches: Callable[[], SharedBatches]

    def transcribe(self, source: Any, job: Job, *, lips: str | None = None, modality: str = "auto",
                   on_segment: Callable[[Segment], None] | None = None, **settings: Any) -> Transcript:
        """The transcript of a recording as a part of a job, in batches with others."""
        checkpoint = self.model.for_request(lips, modality)

        def found(segment: Segment) -> None:
            job.check()
            if on_segment is not None:
                on_segment(segment)

        return transcribe(source, model=checkpoint, modality=modality, on_segment=found, progress=job.progress,
                          shared=self.batches(), **settings)

    def job(self, work: Callable[[Job], Any]) -> Job:
        """A job with this server's limits, in the queue."""
        return self.jobs.start(Job(work, max_s=self.settings.max_minutes * 60))


def openai_router(work: Work) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1")

    @router.post("/audio/transcriptions", openapi_extra=FORM_SCHEMA, summary="The text of a recording, by sound and lips.")
    async def transcriptions(request: Request) -> Response:
        return await _answer(request, work, "transcribe")

    @router.post("/audio/translations", openapi_extra=FORM_SCHEMA, summary="The text of a recording in English.")
    async def translations(request: Request) -> Response:
        return await _answer(request, work, "translate")

    @router.get("/models", summary="The model that is served.")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [work.model.row()]})

    @router.get("/models/{name:path}", summary="A model.")
    async def model(name: str) -> Response:
        work.model.check_name(name)
        return JSONResponse(work.model.row() | {"id": name})

    return router


async def _answer(request: Request, work: Work, task: str) -> Response:
    """Receive a request, do its work, and answer. Its place and its file are given back whatever happens."""
    async with AsyncExitStack() as stack:
        stack.enter_context(work.jobs.place())
        form = await stack.enter_async_context(
            request.form(max_files=2, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES))
        asked = read_form(form, task)
        work.model.check_name(asked.model or work.model.name)
        if asked.stream:
            return _Stream(work, asked, request, stack.pop_all())
        job = work.job(lambda job: _transcribed(work, asked, job))
        try:
            transcript, mouths = await finished(job, request.is_disconnected)
        except Cancelled:
            return Response(status_code=GONE)
        return answer(transcript, asked, mouths)


def _transcribed(work: Work, asked: Asked, job: Job,
                 on_segment: Callable[[Segment], None] | None = None) -> tuple[Transcript, str | None]:
    """The transcript that a request asks for, and its mouths as a video in base64. Runs in a thread of the queue."""
    if not asked.file.size:
        raise BadMedia("file: it is empty.  Check that it was recorded and copied to its end.")
    with tempfile.TemporaryDirectory(prefix="avsr-") as folder:
        place = Path(folder) / "mouths.mp4"
        transcript = work.transcribe(
            asked.file.file, job, lips=asked.lips, modality=asked.modality, on_segment=on_segment, language=asked.language,
            task=asked.task, initial_prompt=asked.prompt, temperature=asked.temperature,
            speakers=asked.speakers or asked.response_format == "diarized_json", save_lips=place if asked.mouths else None)
        return transcript, base64.b64encode(place.read_bytes()).decode() if place.exists() else None


class _Stream(Response):
    """Events while the text is found. It holds the request's place and file until the last one is sent."""

    def __init__(self, work: Work, asked: Asked, request: Request, held: AsyncExitStack):
        super().__init__(media_type="text/event-stream")
        self.work, self.asked, self.request, self.held = work, asked, request, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for one in self._events():
                await send({"type": "http.response.body", "body": one, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def init_headers(self, headers: Any = None) -> None:
        """See Response; how long a stream is is not known."""
        super().init_headers(headers)
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]

    async def _events(self) -> AsyncIterator[bytes]:
        loop, found, number = asyncio.get_running_loop(), asyncio.Queue[Segment](), 0

        def on_segment(segment: Segment) -> None:
            loop.call_soon_threadsafe(found.put_nowait, segment)

        job = self.work.job(lambda job: _transcribed(self.work, self.asked, job, on_segment))
        whole = asyncio.ensure_future(finished(job, self.request.is_disconnected))
        try:
            while not (whole.done() and found.empty()):
                getting = asyncio.ensure_future(found.get())
                await asyncio.wait([getting, whole], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    continue
                for one in segment_events(number, getting.result(), self.asked.response_format):
                    yield one
                number += 1
            transcript, mouths = whole.result()
            yield done_event(transcript, self.asked, mouths)
        except Cancelled:
            return
        except Exception as error:
            yield error_event(as_api_error(error))
        finally:
            whole.cancel()


def _field(kind: str, about: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": about, **more}


FORM_SCHEMA = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["file"], "properties": {
        "file": _field("string", "A recording: sound, video, anything that FFmpeg reads.", format="binary"),
        "model": _field("string", "The model's name, or one that OpenAI's clients send."),
        "language": _field("string", "Its code; a multilingual model detects it if it is not given."),
        "prompt": _field("string", "A text that could come before."),
        "temperature": _field("number", "0 is beam search.", minimum=0, maximum=1),
        "response_format": _field("string", "json, text, srt, vtt, verbose_json or diarized_json."),
        "timestamp_granularities[]": {"type": "array", "items": {"type": "string", "enum": ["word", "segment"]}},
        "stream": _field("boolean", "Events while the text is found."),
        "modality": _field("string", "Our own: auto, a (sound), v (lips) or av."),
        "lips": _field("string", "Our own: the second model that the server was started with, or none."),
        "speakers": _field("boolean", "Our own: verbose_json also says who speaks, as diarized_json does."),
        "mouths": _field("boolean", "Our own: verbose_json also has the mouth that was read, as a video in base64.")}}}}}}
