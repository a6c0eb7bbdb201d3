"""Subtitles whose times do not fit a recording -> the same file with new times, and nothing else changed.

    text of a .srt or .vtt file -> Subtitles (cues with their words, and where their times stand) -> align -> retimed text
Text, markup, line breaks, numbers and the order of cues stay as they are, letter by letter; only the times change. A cue whose
words are not heard, such as `[music]`, moves with its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path

import numpy as np

from avsr import media
from avsr.align.given import decoded
from avsr.align.run import align
from avsr.checkpoint import Checkpoint
from avsr.errors import AvsrError, counted, quote
from avsr.names import DEFAULT_MODEL
from avsr.runtime import Progress, no_progress
from avsr.text import normalise
from avsr.textfiles import MARKS
from avsr.transcript import Transcript, Word, format_timestamp

TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
LINE_START = r"(?:\A|(?<=[\r\n]))"
TIMES = re.compile(rf"{LINE_START}[ \t]*({TIME})[ \t]*-->[ \t]*({TIME})(?=\s|\Z)")
ARROW = re.compile(rf"{LINE_START}[^\r\n]*-->[^\r\n]*")
LINE_END = re.compile(r"\r\n|\r|\n")
MARKUP = re.compile(r"<[^<>\n]*>|\{\\[^{}\n]*\}")           # tags of HTML and WebVTT; of SubStation Alpha
SOUNDS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|♪[^♪]*♪?")    # what is described, or sung as a caption says
SPEAKER = re.compile(r"^\s*(?:[-–—]\s*|[A-Z][A-Z .']{1,24}:\s)", re.MULTILINE)
LEAST_FOUND = 0.34                                          # share of a cue's words that must be found for times of its own
FAR_OFF = 3.0                                               # s from where the cues around it go: a cue there is mistaken
NEIGHBOURS = 8                                              # cues on each side that say where a cue goes
SHORTEST_CUE = 0.2                                          # s


@dataclass(frozen=True)
class SubtitleCue:
    """A cue of a file. start, end: seconds. text: as in the file. said: the words in it that may be heard.
    start_at, end_at: where its two times stand in the file: offsets of the first character, and of the one after the last."""

    start: float
    end: float
    text: str
    said: str
    start_at: tuple[int, int]
    end_at: tuple[int, int]


@dataclass(frozen=True)
class Subtitles:
    """A subtitle file. content: all of its text. cues: in its order. problems: sentences about what is no cue, and stays.
    encoding, mark: how the file writes its text, and the byte order mark with which it begins."""

    name: str
    content: str
    cues: tuple[SubtitleCue, ...]
    problems: tuple[str, ...] = ()
    encoding: str = "utf-8"
    mark: bytes = b""

    def encoded(self, content: str) -> bytes:
        """Changed content as the bytes of such a file."""
        return self.mark + content.encode(self.encoding)


@dataclass(frozen=True)
class Retimed:
    """New subtitles. content: the text of the new file. times: (start, end) of each cue, seconds. moved: how many cues go with
    their neighbours, as too few of their words were heard. transcript: what was aligned."""

    content: str
    times: tuple[tuple[float, float], ...]
    moved: int
    transcript: Transcript
    problems: tuple[str, ...]


def read_subtitles(path: str | Path, encoding: str | None = None) -> Subtitles:
    """The subtitles of a .srt or .vtt file in UTF-8, in UTF-16 or UTF-32 with its mark, or in the encoding that is named.

    Raises AvsrError, see also `parse_subtitles`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AvsrError(f"{path}: cannot be read ({error.strerror or error}).  Name a .srt or .vtt file.") from error
    found = parse_subtitles(decoded(data, str(path), encoding), str(path))
    mark, name, _ = next((one for one in MARKS if data.startswith(one[0])), (b"", "utf-8", ""))
    return replace(found, encoding=name, mark=mark) if encoding is None else replace(found, encoding=encoding)


def parse_subtitles(content: str, name: str) -> Subtitles:
    """The cues of a file in SubRip (.srt) or WebVTT (.vtt). name: of the file, for messages.

    Raises AvsrError for a file without a cue. What cannot be read as a cue is counted in `problems` and stays as it is.
    """
    found = list(TIMES.finditer(content))
    if not found:
        raise AvsrError(f"{name}: there is no subtitle in it: no line such as 00:00:01,000 --> 00:00:02,500.  Name a .srt or "
                        ".vtt file; a plain text goes with --text.")
    n_bad = len(ARROW.findall(content)) - len(found)
    cues, n_backwards = [], 0
    for match, following in zip(found, [*found[1:], None], strict=True):
        start, end = _seconds(match.groups()[1:5]), _seconds(match.groups()[6:10])
        n_backwards += end < start
        line_end = LINE_END.search(content, match.end())
        body = "" if line_end is None else _body(content[line_end.end():None if following is None else following.start()])
        cues.append(SubtitleCue(start, max(start, end), body, _said(body), match.span(1), match.span(6)))
    problems = []
    if n_bad:
        line = next(len(LINE_END.findall(content[:one.start()])) + 1 for one in ARROW.finditer(content)
                    if not TIMES.match(content, one.start()))
        problems.append(f"{name}: {counted(n_bad, 'cue')} without times that can be read, line {line} for one; left as it is.")
    if n_backwards:
        problems.append(f"{name}: {counted(n_backwards, 'cue')} ended before the beginning; given new times all the same.")
    return Subtitles(name, content, tuple(cues), tuple(problems))


def retime(source: media.Source | media.Clip, subtitles: Subtitles, *, model: str | Path | Checkpoint = DEFAULT_MODEL,
           by: str = "auto", modality: str = "auto", language: str | None = None, device: str = "auto",
           progress: Progress = no_progress, **settings) -> Retimed:
    """Subtitles with the times at which their words are said; see avsr.align.align for the other arguments and errors.

    A cue begins with its first word. It ends with its last one, or stays for as long as before if the next begins later.
    """
    order = sorted(range(len(subtitles.cues)), key=lambda k: subtitles.cues[k].start)
    spoken = [k for k in order if subtitles.cues[k].said]
    if not spoken:
        raise AvsrError(f"{subtitles.name}: none of its {counted(len(order), 'cue')} has a word that could be heard.  Name the "
                        "subtitles of what is said.")
    text = "\n\n".join(subtitles.cues[k].said for k in spoken)
    found = align(source, text=text, model=model, by=by, modality=modality, language=language, device=device,
                  progress=progress, text_name=subtitles.name, **settings)
    groups = _words_of_cues([subtitles.cues[k].said for k in spoken], found.words)
    own = {k: times for k, words in zip(spoken, groups, strict=True) if (times := _own_times(words)) is not None}
    times, moved = _new_times(subtitles.cues, order, own, found.duration)
    problems = [*subtitles.problems, *found.problems]
    if moved and len(own) < len(spoken):
        first = subtitles.cues[moved[0]]
        problems.append(f"{subtitles.name}: {counted(len(moved), 'cue')}, {quote(' '.join(first.text.split()))} for one, moved "
                        "with the cues around, as too little of the text was heard.")
    return Retimed(_with_times(subtitles, times), tuple(times), len(moved), found, tuple(problems))


def _seconds(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (one or "0" for one in groups)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def _body(text: str) -> str:
    """The lines of a cue, without the number or the name of the next one, which stands before the next line of times."""
    block = re.split(r"\n[ \t]*\n", LINE_END.sub("\n", f"\n{text}"), maxsplit=1)[0]
    return block.strip("\n")


def _said(body: str) -> str:
    """What of a cue's text may be heard: without markup, descriptions of sounds, and names of speakers."""
    text = unescape(MARKUP.sub(" ", body))
    text = SPEAKER.sub(" ", SOUNDS.sub(" ", text))
    return " ".join(word for word in text.split() if normalise(word))


def _words_of_cues(said: Sequence[str], words: Sequence[Word]) -> Iterator[list[Word]]:
    """The words of each cue: they are its letters, in order."""
    left = iter(words)
    for text in said:
        wanted, own = len("".join(text.split())), []
        while wanted > 0 and (word := next(left, None)) is not None:
            own.append(word)
            wanted -= len("".join(word.text.split()))
        yield own


def _own_times(words: Sequence[Word]) -> tuple[float, float] | None:
    """Start and end of a cue by its words; None where too few of them were found, or not those at its ends."""
    found = [word for word in words if not word.interpolated]
    if not words or len(found) < max(1, LEAST_FOUND * len(words)):
        return None
    return words[0].start, words[-1].end


def _new_times(cues: Sequence[SubtitleCue], order: Sequence[int], own: dict[int, tuple[float, float]],
               duration_s: float) -> tuple[list[tuple[float, float]], list[int]]:
    """The new times of each cue, and the numbers of those that go with the cues around them. order: of their old starts."""
    kept, moved = {}, []
    known = [k for k in order if k in own]
    for place, k in enumerate(known):
        around = [j for j in known[max(0, place - NEIGHBOURS):place + NEIGHBOURS + 1] if j != k]
        expected = _mapped(cues[k].start, cues, own, around)
        if len(around) < 3 or abs(own[k][0] - expected) <= FAR_OFF:
            kept[k] = own[k]
    times: dict[int, tuple[float, float]] = {}
    for k in order:
        if k in kept:
            times[k] = kept[k]
            continue
        moved.append(k)
        nearest = sorted(kept, key=lambda j: abs(cues[j].start - cues[k].start))[:2 * NEIGHBOURS] or list(own)
        start = max(0.0, _mapped(cues[k].start, cues, kept or own, nearest))
        times[k] = start, start + cues[k].end - cues[k].start
    for k, following in zip(order, [*order[1:], None], strict=True):
        start, end = times[k]
        room = duration_s if following is None else times[following][0]
        overlapped = following is not None and cues[k].end > cues[following].start + 1e-3
        lasts = max(end, start + (cues[k].end - cues[k].start)) if k in kept else end
        end = lasts if overlapped else min(lasts, max(room, end if k in kept and following is None else start))
        times[k] = start, max(end, start + SHORTEST_CUE if not overlapped and room - start > SHORTEST_CUE else start)
    return [times[k] for k in range(len(cues))], moved


def _mapped(time: float, cues: Sequence[SubtitleCue], own: dict[int, tuple[float, float]], among: Sequence[int]) -> float:
    """Where an old time lies in the recording by some cues that were found: a line through them, by medians (Theil and Sen)."""
    if not among:
        return time
    old, new = np.array([cues[k].start for k in among]), np.array([own[k][0] for k in among])
    i, j = np.triu_indices(len(old), 1)
    apart = old[j] != old[i]
    slope = float(np.median((new[j] - new[i])[apart] / (old[j] - old[i])[apart])) if apart.sum() >= 3 else 1.0
    slope = slope if 0.5 < slope < 2 else 1.0
    return float(np.median(new - slope * old)) + slope * time


def _with_times(subtitles: Subtitles, times: Sequence[tuple[float, float]]) -> str:
    """The content of the file with new times, written as the old ones were: with hours or without, comma or point."""
    out, at = [], 0
    for cue, new in zip(subtitles.cues, times, strict=True):
        for (first, last), seconds in zip((cue.start_at, cue.end_at), new, strict=True):
            old = subtitles.content[first:last]
            mark = "," if "," in old else "."
            out += [subtitles.content[at:first],
                    format_timestamp(seconds, always_hours=old.count(":") == 2, decimal_mark=mark)]
            at = last
    return "".join([*out, subtitles.content[at:]])
