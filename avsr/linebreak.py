"""Line breaks in scripts without spaces between words: text in, the places where a line may begin out.

Thai is split into words by BudouX (a small classifier). Lao, Khmer, Burmese and Tibetan, for which there is no light library,
are split between clusters: a letter with everything that is written around it. A line never begins with a combining mark.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Protocol, TypeVar

HAN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"             # Chinese and Japanese: a line may begin with any letter
SPACELESS = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"
RUN = re.compile(f"[{SPACELESS}][{SPACELESS}\u200b-\u200d]*")
SPACED_LETTER = re.compile(f"[^\\W{HAN}{SPACELESS}]")       # a letter of a script with spaces between words
LINE_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# One cluster. A consonant below another one belongs to that, a consonant that ends in an asat (Burmese) to the syllable before,
# a vowel that is written before its consonant (Thai, Lao) to the consonant, and a sign that ends a word or clause to the word.
CLUSTER = r"""
    [\u0f40-\u0fbc]+ [\u0f0b-\u0f14]*                       # Tibetan: a syllable with its dot
    | [\u0e40-\u0e44\u0ec0-\u0ec4]* \X
      (?: \p{M} | [\u200b-\u200d] | (?<=[\u17d2\u1039]) \X | [\u1000-\u1021] \u1037? \u103a
        | [\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0e5a\u0e5b\u0eaf\u0eb0\u0eb2\u0eb3\u0ebd\u0ec6\u104a\u104b\u17d4-\u17da] )*"""


class TimedText(Protocol):
    """A dataclass with a text, and its start and end in seconds, such as transcript.Word."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def text(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...


Timed = TypeVar("Timed", bound=TimedText)


def clusters(text: str) -> list[str]:
    """What readers see as letters, each with the marks above, below and around it. Joined they are the text."""
    return _cluster().findall(text)


def line_starts(text: str, words: set[int]) -> set[int]:
    """The offsets in a text at which a line may begin.

    words: the offsets at which the words of the recogniser begin. They are kept, except inside a word or cluster of a script
    without spaces, or inside a Latin word in such a text. Longer stretches of such a script are split into words.
    """
    runs = list(RUN.finditer(text))
    if not runs and not re.search(f"[{HAN}]", text):
        return set(words)
    kept = {at for at in words if not (at and SPACED_LETTER.match(text[at - 1]) and SPACED_LETTER.match(text, at))}
    for run in runs:
        first, last = run.span()
        kept -= set(range(first + 1, last))
        kept |= {first + at for at in accumulate(map(len, _words(run[0])), initial=0)} & set(range(first + 1, last))
        if first and first not in words and text[first - 1].isalnum():
            kept.add(first)
        if last < len(text) and text[last].isalnum():
            kept.add(last)
    return {at for at in kept if at < len(text)}


def inseparable(words: Sequence[Timed]) -> tuple[list[list[Timed]], list[Timed]]:
    """The words in groups that stay on one line, such as the parts of a Thai word; and each group as one word."""
    starts = list(accumulate((len(word.text) for word in words), initial=0))[:-1]
    allowed = line_starts("".join(word.text for word in words), set(starts))
    groups: list[list[Timed]] = []
    for word, start in zip(words, starts, strict=True):
        if groups and start not in allowed and word.text:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups, [group[0] if len(group) == 1 else
                    replace(group[0], text="".join(word.text for word in group), end=group[-1].end) for group in groups]


def line_pieces(words: Sequence[Timed], width: float) -> list[Timed]:
    """The same text in words between which a line may end. A word of a script without spaces that is wider than `width` is
    split, and its time is divided by length."""
    text = "".join(word.text for word in words)
    starts = list(accumulate((len(word.text) for word in words), initial=0))
    allowed = sorted(line_starts(text, set(starts[:-1])))
    if allowed == starts[:-1] and not RUN.search(text):
        return list(words)

    def time(at: int, find: Callable[[list[int], int], int]) -> float:
        i = find(starts, at) - 1
        return words[i].start + (words[i].end - words[i].start) * (at - starts[i]) / len(words[i].text)

    out = []
    for first, last in pairwise([*allowed, len(text)]):
        whole = text[first:last]
        for piece in clusters(whole) if RUN.search(whole) and columns(whole.strip()) > width else [whole]:
            word = words[bisect_right(starts, first) - 1]
            out.append(replace(word, text=piece, start=time(first, bisect_right), end=time(first + len(piece), bisect_left)))
            first += len(piece)
    return out


def columns(text: str) -> int:
    """The number of characters that take up width: all but combining marks and invisible characters."""
    return len(text) if text.isascii() else sum(unicodedata.category(letter) not in ("Mn", "Me", "Cf") for letter in text)


def one_line(text: str) -> str:
    """The text with spaces for line breaks of every kind and tabs."""
    return LINE_BREAKS.sub(" ", text).strip()


def _words(run: str) -> list[str]:
    """The words of Thai text, and the clusters of other scripts; U+200B, if there is any, marks all word boundaries."""
    if "\u200b" in run:
        return re.findall("[^\u200b]*\u200b+|[^\u200b]+", run)
    whole = clusters(run)
    if not re.search("[\u0e01-\u0e5b]", run):
        return whole
    ends = set(accumulate(map(len, whole))) & set(accumulate(map(len, _thai().parse(run))))
    at, words = 0, []
    for end in sorted(ends):
        words.append(run[at:end])
        at = end
    return words


@cache
def _cluster():
    import regex

    return regex.compile(CLUSTER, regex.VERBOSE | regex.DOTALL)


@cache
def _thai():
    import budoux

    return budoux.load_default_thai_parser()
