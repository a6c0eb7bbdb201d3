"""A transcript as OpenAI's interface answers it: in each response format, and as a stream of events."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from avsr.serve.form import Asked
from avsr.serve.problems import ApiError
from avsr.text import LANGUAGE_NAMES
from avsr.transcript import Segment, Transcript, format_transcript
from avsr.transcript.formats import json_content, segment_row, word_row

MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}


def answer(transcript: Transcript, asked: Asked, mouths: str | None) -> Response:
    """The answer in the format that was asked for. mouths: a video in base64, for verbose_json."""
    form = asked.response_format
    if form == "text":
        return PlainTextResponse(f"{transcript.text}\n")
    if form in MEDIA_TYPES:
        return Response(format_transcript(transcript, form), media_type=f"{MEDIA_TYPES[form]}; charset=utf-8")
    if form == "verbose_json":
        return JSONResponse(verbose(transcript, asked.granularities) | ({} if mouths is None else {"mouths": mouths}))
    if form == "diarized_json":
        return JSONResponse(diarized(transcript))
    return JSONResponse({"text": transcript.text, "usage": usage(transcript)})


def usage(transcript: Transcript) -> dict[str, Any]:
    """As OpenAI counts it: seconds of the recording."""
    return {"type": "duration", "seconds": round(transcript.duration)}


def verbose(transcript: Transcript, granularities: tuple[str, ...] = ()) -> dict[str, Any]:
    """verbose_json: Whisper's fields and ours. The words of each segment are in it, and for the granularity `word` all words at
    the top, as in OpenAI's interface."""
    content = json_content(transcript, word_timestamps=True)
    language = LANGUAGE_NAMES.get(transcript.language, transcript.language).lower()
    words = {"words": [word_row(word) | {"word": word.text.strip()} for word in transcript.words]} if (
        "word" in granularities) else {}
    return content | {"task": transcript.task, "language": language, "usage": usage(transcript)} | words


def diarized(transcript: Transcript) -> dict[str, Any]:
    """diarized_json: who says each segment, told from the picture; the speaker is null for nobody in sight."""
    return {"task": transcript.task, "duration": round(transcript.duration, 3), "text": transcript.text,
            "segments": [_diarized_segment(i, one) for i, one in enumerate(transcript.segments)],
            "usage": usage(transcript)}


def _diarized_segment(number: int, segment: Segment) -> dict[str, Any]:
    return {"type": "transcript.text.segment", "id": f"seg_{number}", "start": round(segment.start, 3),
            "end": round(segment.end, 3), "text": segment.text, "speaker": segment.speaker}


def segment_events(number: int, segment: Segment, form: str) -> list[bytes]:
    """The events of a segment that was found: its text, and for the formats that have segments the segment."""
    events: list[dict[str, Any]] = [{"type": "transcript.text.delta", "delta": f"{' ' if number else ''}{segment.text}"}]
    if form == "diarized_json":
        events.append(_diarized_segment(number, segment))
    elif form == "verbose_json":
        events.append(segment_row(number, segment, word_timestamps=True) | {
            "type": "transcript.text.segment", "id": f"seg_{number}"})
    return [event(one) for one in events]


def done_event(transcript: Transcript, asked: Asked, mouths: str | None) -> bytes:
    """The last event of a stream: the whole text, and for verbose_json all the rest."""
    more = verbose(transcript, asked.granularities) if asked.response_format == "verbose_json" else {}
    more |= {} if mouths is None else {"mouths": mouths}
    return event({**more, "type": "transcript.text.done", "text": transcript.text, "usage": usage(transcript)})


def error_event(error: ApiError) -> bytes:
    """What ends a stream that fails."""
    return event({"type": "error", **error.content})


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event; JSON has no line breaks of its own."""
    return f"data: {json.dumps(content, ensure_ascii=False, allow_nan=False)}\n\n".encode()
