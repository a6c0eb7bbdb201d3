"""The layout of subtitles: a transcript in, cues of lines of words out.

    Words -> groups of the size of a subtitle (`segment`);  Transcript -> Cues, each with its times, lines and speakers
The options are those of openai-whisper's command line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice

from avsr.errors import AvsrError
from avsr.linebreak import HAN, columns, inseparable, line_pieces, one_line
from avsr.transcript.words import Segment, Transcript, Word

LINE_WIDTH, LINE_COUNT = 42, 2                              # characters per line, lines per cue: as usual in broadcasting
MAX_CUE_SECONDS = 7.0
MIN_CUE_SECONDS = 0.1                                       # players hide what lasts 0 s
CUE_PAUSE = 3.0                                             # seconds of silence that end a cue which may span segments
WIDE = re.compile(f"[{HAN}\u3000-\u303f\uac00-\ud7a3\uff01-\uff60]")    # characters that fill two columns
UNTIMED_WORD = re.compile(rf"\s*(?:[{HAN}][、。！？…」』）]*|[^\s{HAN}]+)")
CLOSERS = "\"'”’»)]}」』）】"
SENTENCE_ENDS = tuple("?!。？！｡؟۔।")
CLAUSE_ENDS = tuple(",;:–—，、；：،؛")
ABBREVIATION = re.compile(r"(mr|mrs|ms|dr|prof|st|jr|sr|vs|[^\W\d_](\.[^\W\d_])*)\.$", re.IGNORECASE)

Block = list[list[Word]]                                    # lines of words: one cue
Limit = int | None                                          # of characters, lines or words; None is no limit


@dataclass(frozen=True)
class Cue:
    """A subtitle that is shown from `start` to `end`, which are rounded to a millisecond. speakers: as in Segment."""

    start: float
    end: float
    lines: tuple[str, ...]
    speakers: tuple[str, ...] | None = None


def segment(words: Sequence[Word], *, max_seconds: float = 7.0, max_characters: int = 84,
            pause: float = 0.8) -> list[tuple[Word, ...]]:
    """Groups of words of the size of a subtitle: split at sentence ends and at silences longer than `pause` seconds, and if
    they exceed the limits, at the best comma or silence inside. No word is split, even if `words` are single letters.
    """

    def fits(group: Sequence[Word]) -> bool:
        return group[-1].end - group[0].start <= max_seconds and columns(_text(group)) <= max_characters

    def ends(word: Word, following: Word) -> bool:
        return following.start - word.end > pause or _ends_sentence(word, following)

    units, wholes = inseparable(words)
    left = iter(units)
    parts = [part for group in _group(wholes, ends) for part in _cut(group, fits)]
    return [tuple(word for unit in islice(left, len(part)) for word in unit) for part in parts]


def _group(words: Sequence[Word], ends: Callable[[Word, Word], bool]) -> list[list[Word]]:
    """Runs of words, split wherever `ends(word, the next word)`."""
    groups: list[list[Word]] = []
    for i, word in enumerate(words):
        if i == 0 or ends(words[i - 1], word):
            groups.append([])
        groups[-1].append(word)
    return groups


def _cut(words: Sequence[Word], fits: Callable[[Sequence[Word]], bool]) -> Iterator[Sequence[Word]]:
    """Split in two, and each part again, until every part fits."""
    if len(words) < 2 or fits(words):
        yield words
        return

    def merit(i: int) -> float:
        comma = words[i - 1].text.rstrip(CLOSERS).endswith(CLAUSE_ENDS)
        silence = min(words[i].start - words[i - 1].end, 1.0)           # a comma counts as one second of it
        return comma + silence - abs(i / len(words) - 0.5)

    margin = len(words) // 5                                # no very short part at either end
    best = max(range(max(1, margin), len(words) - margin), key=merit)
    yield from _cut(words[:best], fits)
    yield from _cut(words[best:], fits)


def _ends_sentence(word: Word, following: Word) -> bool:
    text = word.text.strip().rstrip(CLOSERS)
    if not text.endswith((".", "…")):                       # which also occur inside sentences
        return text.endswith(SENTENCE_ENDS)
    return not (ABBREVIATION.fullmatch(text) or following.text.lstrip()[:1].islower())


def cues(transcript: Transcript, *, max_line_width: Limit = None, max_line_count: Limit = None,
         max_words_per_line: Limit = None, highlight_words: bool = False) -> list[Cue]:
    """The subtitles, in order of time; no two overlap.

    Without limits, a cue is a segment, or a part of one that is longer than 7 s or two lines of 42 characters (21 wide ones).
    The limits are Whisper's: `max_line_width` characters per line (a longer word has its own line); `max_line_count` lines
    per cue; with both, cues span segments and end at silences over 3 s; `max_words_per_line` ends a cue too unless both others
    are set. With `highlight_words` there is a cue for each word, with that word in <u>.
    The words of a segment without word times get shares of its time by their length. Marks above and below letters do not count
    as characters; see linebreak for scripts without spaces. Raises AvsrError for a limit below 1.
    """
    limits = (max_line_width, max_line_count, max_words_per_line)
    if any(limit is not None and limit < 1 for limit in limits):
        raise AvsrError(f"max_line_width, max_line_count, max_words_per_line are {limits}: each must be at least 1.  Leave one "
                        "out to have no limit.")
    width = max_line_width if any(limits) else LINE_WIDTH
    segments = [line_pieces(words, width or math.inf) for part in transcript.segments if (words := _timed_words(part))]
    blocks = list(_limited_blocks(segments, *limits) if any(limits) else
                  chain.from_iterable(map(_default_blocks, segments)))
    spans = zip(blocks, _spans(blocks), strict=True)
    if highlight_words:
        return [cue for block, span in spans for cue in _highlighted(block, *span)]
    return [Cue(*span, tuple(map(_text, block)), block[0][0].speakers) for block, span in spans]


def _timed_words(part: Segment) -> list[Word]:
    """The visible words of a segment; if none are timed, those of its text, with shares of its time by their length."""
    if part.words:
        return [word for word in part.words if word.text.strip()]
    words, start = [], part.start
    for text in (texts := UNTIMED_WORD.findall(part.text)):
        end = start + (part.end - part.start) * len(text) / sum(map(len, texts))
        words.append(Word(text, start, end, speakers=part.speakers))
        start = end
    return words


def _default_blocks(words: list[Word]) -> Iterator[Block]:
    n_wide = len(WIDE.findall(_text(words)))
    width = LINE_WIDTH // 2 if 2 * n_wide > columns(_text(words)) else LINE_WIDTH

    def fits(group: Sequence[Word]) -> bool:
        return group[-1].end - group[0].start <= MAX_CUE_SECONDS and len(_lines(group, width)) <= LINE_COUNT

    groups = [words] if fits(words) else segment(words, max_characters=width * LINE_COUNT)
    for part in (part for group in groups for part in _cut(group, fits)):
        n_lines = len(_lines(part, width))                  # as few as possible, of similar length
        even = min(columns(_text(part)) // n_lines, width)
        yield next(lines for w in range(even, width + 1) if len(lines := _lines(part, w)) <= n_lines)


def _limited_blocks(segments: list[list[Word]], width: Limit, count: Limit, n_words: Limit) -> Iterator[Block]:
    """Blocks of at most `count` lines of `width` characters and `n_words` words."""
    if width and count:
        words = [word for part in segments for word in part]
        groups = _group(words, lambda word, following: following.start - word.end > CUE_PAUSE
                        or word.speakers != following.speakers)
    else:
        groups = [group for part in segments for group in _every(part, n_words)]
    yield from (block for group in groups for block in _every(_lines(group, width, n_words), count))


def _every(items: list, n: Limit) -> list[list]:
    """Slices of `n` items, or one of all."""
    return [items[i:i + (n or len(items))] for i in range(0, len(items), n or len(items))]


def _lines(words: Sequence[Word], width: Limit, max_words: Limit = None) -> Block:
    """The words in lines of at most `width` characters, each as full as possible."""
    lines: Block = []
    for word in words:
        length = columns(_text([*lines[-1], word])) if lines else 0
        if lines and length <= (width or math.inf) and len(lines[-1]) < (max_words or math.inf):
            lines[-1].append(word)
        else:
            lines.append([word])
    return lines


def _spans(blocks: list[Block]) -> list[tuple[float, float]]:
    """Start and end of each cue: in order, without overlap, and long enough to be seen if there is time."""
    starts = list(accumulate((round(block[0][0].start, 3) for block in blocks), max, initial=0.0))[1:]
    spans = []
    for block, start, following in zip(blocks, starts, [*starts[1:], math.inf], strict=False):
        end = max(word.end for line in block for word in line)
        spans.append((start, min(round(max(end, start + MIN_CUE_SECONDS), 3), following)))
    return spans


def _highlighted(block: Block, start: float, end: float) -> Iterator[Cue]:
    """A cue for each word, with that word in <u>, and one without for each silence between words."""
    plain, now, speakers = tuple(map(_text, block)), start, block[0][0].speakers
    for line in block:
        for i, word in enumerate(line):
            begins = min(max(round(word.start, 3), now), end)
            if begins > now:
                yield Cue(now, begins, plain, speakers)
            now = min(max(round(word.end, 3), begins), end)
            yield Cue(begins, now, tuple(_text(other, i if other is line else None) for other in block), speakers)
    if end > now:
        yield Cue(now, end, plain, speakers)


def _text(words: Iterable[Word], underlined: int | None = None) -> str:
    """One line of text. An arrow such as separates times in srt and vtt is shortened."""
    texts = [word.text for word in words]
    if underlined is not None:
        word = texts[underlined].strip()
        texts[underlined] = texts[underlined].replace(word, f"<u>{word}</u>")
    return re.sub("-{2,}>", "->", one_line("".join(texts)))
