"""Where a line may begin in scripts that put no space between words: text in, places out.

    Thai is cut into words by BudouX (a small classifier); Lao, Khmer, Burmese and Tibetan, of which no light library knows the
    words, between clusters: a letter with all that is written around it. A line never begins with a mark.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise
from typing import TypeVar

HAN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"             # Chinese and Japanese, in which a line may begin with any letter
SPACELESS = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"
RUN = re.compile(f"[{SPACELESS}][{SPACELESS}\u200b-\u200d]*")
SPACED_LETTER = re.compile(f"[^\\W{HAN}{SPACELESS}]")       # of a word that is written between spaces
LINE_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# One cluster. A consonant below another one counts to it, a consonant that an asat ends (Burmese) to the syllable before it,
# vowels that are written before their consonant (Thai, Lao) to that one, and signs that end a word or a clause to the word.
CLUSTER = r"""
    [\u0f40-\u0fbc]+ [\u0f0b-\u0f14]*                       # Tibetan: a syllable with its dot
    | [\u0e40-\u0e44\u0ec0-\u0ec4]* \X
      (?: \p{M} | [\u200b-\u200d] | (?<=[\u17d2\u1039]) \X | [\u1000-\u1021] \u1037? \u103a
        | [\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0e5a\u0e5b\u0eaf\u0eb0\u0eb2\u0eb3\u0ebd\u0ec6\u104a\u104b\u17d4-\u17da] )*"""
Timed = TypeVar("Timed")                                    # a dataclass with text, start and end in seconds: transcript.Word


def clusters(text: str) -> list[str]:
    """What a reader takes for letters, with the marks above, below and around each. Joined they are the text."""
    return _cluster().findall(text)


def line_starts(text: str, words: set[int]) -> set[int]:
    """Places in a text at which a line may begin.

    words: where the text's words begin, as a recogniser cut it. They stay, but for those inside a word or cluster of a script
    without spaces, and those inside a Latin word in such a text; words of such a script that were not cut are cut.
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
    """Words in groups that stand on one line, as the letters of a Thai word do, and each group as one word."""
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
    """The same text in words between which a line may end; of scripts without spaces, one wider than `width` is cut.

    Times inside a word are shared out by length.
    """
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
    """Characters that take a place of their own on a line: all but marks above and below letters and what is invisible."""
    return len(text) if text.isascii() else sum(unicodedata.category(letter) not in ("Mn", "Me", "Cf") for letter in text)


def one_line(text: str) -> str:
    """Line breaks of every kind, and tabs, become spaces."""
    return LINE_BREAKS.sub(" ", text).strip()


def _words(run: str) -> list[str]:
    """Words of Thai, clusters of other scripts; a word boundary that the writer has marked (U+200B) is one."""
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
