"""Words and phones with their times in the formats of phonetics and of speech recognition.

    Transcript -> textgrid: Praat's TextGrid, long form, tiers `words` and `phones`
    Transcript -> ctm: NIST's time-marked conversation, a line for each word
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from avsr.linebreak import one_line
from avsr.transcript.words import Transcript

Interval = tuple[float, float, str]                         # start and end in seconds, text
CHANNEL = "1"                                               # of a ctm: the first, as NIST's sclite counts
PLACES = 3                                                  # decimals of a second


def textgrid(transcript: Transcript) -> str:
    """A TextGrid in its long form, as Praat writes it: two interval tiers that cover the recording without gaps.

    The silence between words is an interval without text. Praat refuses intervals that overlap or last 0 s: the first is cut
    where the next one begins, and a word without any time is left out. The format: Praat's manual, `TextGrid file formats`.
    """
    words = [(word.start, word.end, one_line(word.text)) for word in transcript.words]
    phones = [(phone.start, phone.end, phone.name) for word in transcript.words for phone in word.phones]
    end = round(max([transcript.duration, *(one[1] for one in words)]), PLACES)
    tiers = [("words", _filled(words, end)), ("phones", _filled(phones, end))]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}", "tiers? <exists>",
             f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers, start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"', "        xmin = 0",
                  f"        xmax = {end}", f"        intervals: size = {len(intervals)}"]
        for place, (start, stop, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start}", f"            xmax = {stop}",
                      f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _filled(intervals: Iterable[Interval], end: float) -> Sequence[Interval]:
    """The intervals in order, cut where they overlap, with intervals without text in the gaps; from 0 to `end`."""
    out: list[Interval] = []
    at, following = 0.0, sorted((round(a, PLACES), round(b, PLACES), text) for a, b, text in intervals)
    for number, (start, stop, text) in enumerate(following):
        start, stop = max(start, at), min(stop, end)
        if number + 1 < len(following):
            stop = min(stop, max(following[number + 1][0], start))
        if stop <= start:
            continue
        out += [(at, start, "")] * (start > at) + [(start, stop, text)]
        at = stop
    return [*out, (at, end, "")] if at < end or not out else out


def ctm(transcript: Transcript, stem: str) -> str:
    """A line `file channel start duration word confidence` for each word (NIST's sclite; the confidence is optional there, and
    left out where it is unknown). stem: the name of the recording. White space in it or in a word becomes `_`."""
    name = re.sub(r"\s+", "_", stem) or "recording"
    lines = []
    for word in transcript.words:
        if text := re.sub(r"\s+", "_", one_line(word.text).strip()):
            start = round(word.start, PLACES)
            confidence = [] if word.confidence is None else [f"{word.confidence:.3f}"]
            lines.append(" ".join([name, CHANNEL, f"{start:.3f}", f"{max(0.0, word.end - start):.3f}", text, *confidence]))
    return "".join(f"{line}\n" for line in lines)
