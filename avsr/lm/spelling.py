"""How texts are spelt for a language model: as they are, as they are compared, or as Whisper would write plain words.

    "bin blue at f two now"  ->  plain: the same;  normalised: the same;  sentence: "Bin blue at F2 now."
"""

from __future__ import annotations

import re
from typing import Annotated

from avsr.schema import OneOf
from avsr.text import NUMBERS, normalise

Spelling = Annotated[str, OneOf(("plain", "normalised", "sentence"))]
VALUES = {word: str(value) for value, word in enumerate(NUMBERS)}
LETTER_AND_NUMBER = re.compile(rf"(?<!['\w])([^\W\d_]) ({'|'.join(sorted(NUMBERS, key=len, reverse=True))})\b")
SINGLE_LETTER = re.compile(r"(?<!['\w])[b-z](?!['\w])")


def spell(text: str, spelling: Spelling) -> str:
    """A text in one of the spellings, without spaces around it.

    plain: as it is. normalised: as texts are compared, see text.normalise. sentence: as Whisper writes words that are given
    without capitals: a capital at the beginning, a full stop at the end, single letters as capitals (but not the word a), and a
    letter with the number from 0 to 99 after it in one word, the number in figures. A text that has capitals or full stops
    already is left as it is.
    """
    text = " ".join(text.split())
    if spelling == "normalised":
        return normalise(text)
    if spelling == "plain" or not text or text != text.lower() or "." in text:
        return text
    text = LETTER_AND_NUMBER.sub(lambda found: found[1].upper() + VALUES[found[2]], text)
    text = SINGLE_LETTER.sub(lambda found: found[0].upper(), text)
    return f"{text[0].upper()}{text[1:]}."
