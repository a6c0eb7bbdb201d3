"""The texts among which sound and lips together choose: those of both searches, and mixtures of their best two.

    texts by sound, texts by lips -> candidates, as words that are compared
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import product

Words = tuple[str, ...]

MOST_REGIONS = 4                                            # that differ: all 2^4 mixtures are tried; of more, one at a time
MOST_BY_LIPS = 10


def candidates(by_sound: Sequence[Words], by_lips: Sequence[Words]) -> list[Words]:
    """Every text once: those of the audio model, those by lips that have words, and mixtures of the first of each."""
    by_lips = [words for words in by_lips if words][:MOST_BY_LIPS]
    found = [*by_sound, *by_lips]
    if by_lips:
        found += mixtures(by_sound[0], by_lips[0])
    return list(dict.fromkeys(found))


def mixtures(first: Words, second: Words) -> list[Words]:
    """Texts with words of both, where the two differ in several regions: each region is taken whole from either."""
    matched = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    regions = [(first[a:b], second[c:d]) for _, a, b, c, d in matched]
    different = [i for i, (one, other) in enumerate(regions) if one != other]
    if len(different) <= MOST_REGIONS:
        choices = list(product((0, 1), repeat=len(different)))
    else:
        single = [tuple(int(i == j) for j in range(len(different))) for i in range(len(different))]
        choices = single + [tuple(1 - one for one in choice) for choice in single]
    out = []
    for choice in choices:
        taken = dict(zip(different, choice, strict=True))
        out.append(tuple(word for i, pair in enumerate(regions) for word in pair[taken.get(i, 0)]))
    return out
