"""Transcripts as txt, srt, vtt, tsv, json, TextGrid and CTM, and their files.

    Transcript -> text of one format | files
The first five formats are those of openai-whisper's command line, and the labels of speakers those of whisperX; word_formats.py
has the other two, which hold words and phones alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avsr.errors import AvsrError
from avsr.linebreak import one_line
from avsr.output import write_files
from avsr.transcript.cues import Cue, cues
from avsr.transcript.word_formats import ctm, textgrid
from avsr.transcript.words import LipsUse, Segment, Transcript, Word, of_speaker

FORMATS = ("txt", "srt", "vtt", "tsv", "json")               # what `all` stands for, as in Whisper's command line
WORD_FORMATS = ("textgrid", "ctm")
SUFFIXES = {"textgrid": "TextGrid"}                         # where it is not the format's name: Praat writes it so


def parse_formats(names: str) -> tuple[str, ...]:
    """The formats named in `txt,srt` or `all`, which are Whisper's five. Raises AvsrError for one that does not exist."""
    wanted = [name.strip().lower() for name in names.split(",")]
    for name in wanted:
        if name not in (*FORMATS, *WORD_FORMATS, "all"):
            raise AvsrError(f"{name!r} is not an output format.  Use any of {', '.join((*FORMATS, *WORD_FORMATS))}, or all.")
    return FORMATS if "all" in wanted else tuple(dict.fromkeys(wanted))


def format_transcript(transcript: Transcript, format: str, *, word_timestamps: bool = False, stem: str = "",
                      **layout) -> str:
    """The transcript in one of FORMATS or WORD_FORMATS.

    `word_timestamps` puts the words into json; `layout`, the options of `cues`, shapes srt and vtt. stem: the name of the
    recording in a ctm.
    Raises AvsrError for an unknown format or a limit below 1.
    """
    subtitles = cues(transcript, **layout)
    if format == "json":
        return _json(transcript, word_timestamps=word_timestamps)
    if format == "textgrid":
        return textgrid(transcript)
    if format == "ctm":
        return ctm(transcript, stem)
    if format not in WRITERS:
        raise AvsrError(f"{format!r} is not one output format.  Use one of {', '.join((*FORMATS, *WORD_FORMATS))}.")
    return WRITERS[format](transcript, subtitles)


def write(transcript: Transcript, formats: str | Iterable[str], *, output_dir: str | Path, stem: str,
          separate_speakers: bool = False, **options) -> list[Path]:
    """Write `{stem}.{format}` (`{stem}.TextGrid` for textgrid) for each format into `output_dir`, which is made if need be.

    formats: a list of names, which may be empty, or what `parse_formats` takes. separate_speakers: also write
    `{stem}.{speaker}.vtt` for each speaker, see `of_speaker`. options: those of `format_transcript`.
    Either all files are written completely or none. Raises BadOutput where they cannot be written, AvsrError as above.
    """
    folder, names = Path(output_dir), ()
    if formats:
        names = parse_formats(formats if isinstance(formats, str) else ",".join(formats))
    texts = {folder / f"{stem}.{SUFFIXES.get(name, name)}": format_transcript(transcript, name, stem=stem, **options)
             for name in names}
    if separate_speakers:
        texts |= {folder / f"{stem}.{speaker}.vtt": format_transcript(of_speaker(transcript, speaker), "vtt", **options)
                  for speaker in transcript.speakers}
    kinds = ", ".join([*names, *(["a file for each speaker"] if separate_speakers else [])])
    write_files(texts, lambda reason: f"{folder / stem}: {kinds} cannot be written ({reason}).  Make room or get permission "
                                      "there, or choose another folder with --output-dir.")
    return list(texts)


def format_timestamp(seconds: float, *, always_hours: bool, decimal_mark: str) -> str:
    """A time such as `01:02:03,004`; times before 0 are shown as 0."""
    minutes, milliseconds = divmod(max(0, round(seconds * 1000)), 60_000)
    hours, minutes = divmod(minutes, 60)
    shown_hours = f"{hours:02d}:" if always_hours or hours else ""
    return f"{shown_hours}{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


def label(speakers: tuple[str, ...] | None) -> str:
    """What stands before the words of speakers in plain text, as whisperX has it: `[SPEAKER_00]: `; nothing for nobody."""
    return f"[{', '.join(speakers)}]: " if speakers else ""


def _txt(transcript: Transcript, _: list[Cue]) -> str:
    return "".join(f"{label(part.speakers)}{text}\n" for part in transcript.segments if (text := one_line(part.text)))


def _tsv(transcript: Transcript, _: list[Cue]) -> str:
    rows = [(*(max(0, round(1000 * seconds)) for seconds in (part.start, part.end)), one_line(part.text))
            for part in transcript.segments]
    return "".join("\t".join(map(str, row)) + "\n" for row in (("start", "end", "text"), *rows))


def _srt(_: Transcript, subtitles: list[Cue]) -> str:
    blocks = (_timed(cue, label(cue.speakers), cue.lines, always_hours=True, decimal_mark=",") for cue in subtitles)
    return "".join(f"{i}\n{block}" for i, block in enumerate(blocks, start=1))


def _vtt(_: Transcript, subtitles: list[Cue]) -> str:
    def escaped(line: str) -> str:                          # WebVTT reads & and < as markup; only our own <u> is
        line = line.replace("&", "&amp;").replace("<", "&lt;")
        return line.replace("&lt;u>", "<u>").replace("&lt;/u>", "</u>")

    def voice(speakers: tuple[str, ...] | None) -> str:
        return f"<v {', '.join(speakers)}>" if speakers else ""

    blocks = (_timed(cue, voice(cue.speakers), map(escaped, cue.lines), always_hours=False, decimal_mark=".")
              for cue in subtitles)
    return "".join(("WEBVTT\n\n", *blocks))


def _timed(cue: Cue, speaker: str, lines: Iterable[str], **style) -> str:
    start, end = (format_timestamp(seconds, **style) for seconds in (cue.start, cue.end))
    return f"{start} --> {end}\n{speaker}" + "\n".join((*lines, "", ""))


WRITERS = {"txt": _txt, "srt": _srt, "vtt": _vtt, "tsv": _tsv}


def _json(transcript: Transcript, *, word_timestamps: bool) -> str:
    return json.dumps(json_content(transcript, word_timestamps=word_timestamps), ensure_ascii=False, allow_nan=False) + "\n"


def json_content(transcript: Transcript, *, word_timestamps: bool) -> dict[str, Any]:
    """What the format json holds, as plain values: Whisper's fields and ours."""
    return {"text": transcript.text,
               "segments": [segment_row(i, part, word_timestamps) for i, part in enumerate(transcript.segments)],
               **{name: getattr(transcript, name) for name in ("language", "model", "modality", "modality_reason")},
               **({} if transcript.task == "transcribe" else {"task": transcript.task}),
               "duration": _number(transcript.duration, 3), "problems": list(transcript.problems)}


def segment_row(i: int, part: Segment, word_timestamps: bool) -> dict[str, Any]:
    """A segment as the format json has it. i: its number."""
    measures = ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob", "confidence")
    return {"id": i, "seek": int(part.seek), "start": _number(part.start, 3), "end": _number(part.end, 3), "text": part.text,
            "tokens": [int(token) for token in part.tokens], **{name: _number(getattr(part, name)) for name in measures},
            **_speaker_row(part.speakers), **_lips_row(part.lips),
            **({} if part.corrected_from is None else {"corrected_from": part.corrected_from}),
            **({} if part.lips_reliability is None else {"lips_reliability": _number(part.lips_reliability, 3)}),
            **({"words": [word_row(word) for word in part.words]} if word_timestamps else {})}


def word_row(word: Word) -> dict[str, Any]:
    """A word as the format json has it. The confidence is also given as `probability`, which is Whisper's name for it."""
    confidence = _number(word.confidence)
    return {"word": word.text, "start": _number(word.start, 3), "end": _number(word.end, 3), "probability": confidence,
            "confidence": confidence, **_speaker_row(word.speakers), **_aligned_row(word)}


def _aligned_row(word: Word) -> dict:
    """What only the alignment of a given text knows: `phones`, and `interpolated` for a word that was not found."""
    phones = [{"phone": one.name, "start": _number(one.start, 3), "end": _number(one.end, 3)} for one in word.phones]
    return {**({"phones": phones} if phones else {}), **({"interpolated": True} if word.interpolated else {})}


def _speaker_row(speakers: tuple[str, ...] | None) -> dict:
    """`speaker`, which is whisperX's name, is null for nobody in sight; `speakers` lists those who speak at once."""
    return {} if speakers is None else {"speaker": speakers[0] if speakers else None, "speakers": list(speakers)}


def _lips_row(lips: LipsUse | None) -> dict:
    """`lips`, which Whisper's JSON does not have: what the lips read by another model had to do with the text."""
    return {} if lips is None else {"lips": {**asdict(lips), "share": _number(lips.share, 3)}}


def _number(value: float | None, digits: int = 6) -> float | None:
    """A plain rounded float (JSON does not take numpy's); None for infinity and NaN, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)
