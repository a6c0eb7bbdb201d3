"""The form of a request: OpenAI's fields and ours, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile

from avsr.names import INPUT_MODALITIES
from avsr.serve.problems import ApiError

FORMATS = ("json", "text", "srt", "vtt", "verbose_json", "diarized_json")
GRANULARITIES = ("word", "segment")
MOST_FIELDS, FIELD_BYTES = 40, 2**16
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")
# Fields of OpenAI's interface that would change the answer, and that this server cannot do.
IMPOSSIBLE = {"known_speaker_names[]": "no voice is compared; speakers are told from the picture",
              "known_speaker_references[]": "no voice is compared; speakers are told from the picture"}


@dataclass(frozen=True)
class Asked:
    """What a request asks for; the fields are those of OpenAI's interface, and modality, lips, mouths and speakers ours."""

    file: UploadFile
    task: str
    model: str
    language: str | None
    prompt: str | None
    temperature: float
    response_format: str
    granularities: tuple[str, ...]
    stream: bool
    modality: str
    lips: str | None
    mouths: bool
    speakers: bool


def read_form(form: FormData, task: str) -> Asked:
    """The form of a request. task: transcribe or translate. Raises ApiError, naming the field that is wrong."""
    files = form.getlist("file")
    if len(files) != 1 or not isinstance(files[0], UploadFile):
        raise ApiError(400, "The field file is missing, or no file.  Send one recording, as multipart/form-data.",
                       code="missing_file", param="file")
    for name, why in IMPOSSIBLE.items():
        if name in form:
            raise ApiError(400, f"{name}: {why}.  Leave it out.", code="unsupported_parameter", param=name)
    if any("logprobs" in str(one) for one in form.getlist("include[]")):
        raise ApiError(400, "include[]: log-probabilities of tokens are not given; verbose_json has a confidence for each "
                            "word.  Leave it out.", code="unsupported_parameter", param="include[]")
    granularities = tuple(str(one) for one in form.getlist("timestamp_granularities[]"))
    for one in granularities:
        _one_of(one, GRANULARITIES, "timestamp_granularities[]")
    asked = Asked(files[0], task, _text(form, "model", "") or "", _text(form, "language"), _text(form, "prompt"),
                  _temperature(_text(form, "temperature")), _text(form, "response_format") or "json", granularities,
                  _flag(form, "stream"), _text(form, "modality") or "auto", _text(form, "lips"), _flag(form, "mouths"),
                  _flag(form, "speakers"))
    _one_of(asked.response_format, FORMATS, "response_format")
    _one_of(asked.modality, ("auto", *INPUT_MODALITIES), "modality")
    if granularities and asked.response_format != "verbose_json":
        raise ApiError(400, "timestamp_granularities[]: only response_format verbose_json has times.  Ask for that.",
                       code="invalid_value", param="timestamp_granularities[]")
    return asked


def _text(form: FormData, name: str, default: str | None = None) -> str | None:
    value: Any = form.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{name}: it is a file, but must be a text.  Send it as a field.", code="invalid_value", param=name)
    return value.strip() if value and value.strip() else default


def _one_of(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        raise ApiError(400, f"{name} {value[:40]!r}: not known.  Use one of {', '.join(choices)}.", code="invalid_value",
                       param=name)


def _flag(form: FormData, name: str) -> bool:
    value = (_text(form, name) or "").lower()
    if value not in TRUE + FALSE:
        raise ApiError(400, f"{name} {value[:40]!r}: must be true or false.", code="invalid_value", param=name)
    return value in TRUE


def _temperature(text: str | None) -> float:
    try:
        value = 0.0 if text is None else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:                                  # also where it is no number
        raise ApiError(400, f"temperature {str(text)[:40]!r}: must be a number from 0 to 1.", code="invalid_value",
                       param="temperature")
    return value
