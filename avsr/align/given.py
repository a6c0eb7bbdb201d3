"""The text that is aligned: a file or a string -> its words, each with what of it is spoken.

    `Bin blue -- at F2.` -> GivenWord(" Bin", ("bin",)), GivenWord(" blue --", ("blue",)), ..., GivenWord(" F2.", ("f", "two"))
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from avsr.errors import AvsrError
from avsr.linebreak import clusters
from avsr.text import normalise
from avsr.text.tokenizers import SPACELESS_LANGUAGES
from avsr.textfiles import NotText, decode

PARAGRAPH = re.compile(r"(?:[^\S\n]*\n){2,}")               # an empty line
LONGEST_TEXT = 2**24                                        # bytes: 16 MB, over 200 hours of speech


@dataclass(frozen=True)
class GivenWord:
    """A word of the given text. text: as it is written, with the space before it and the punctuation around it.

    spoken: its words as they are compared, one or more: `F2` is `f`, `two`. paragraph: its number, from 0.
    """

    text: str
    spoken: tuple[str, ...]
    paragraph: int = 0


def decoded(data: bytes, name: str, encoding: str | None = None) -> str:
    """The text of a file's bytes: UTF-8, UTF-16 or UTF-32 with its mark, or of a named encoding. Raises AvsrError."""
    if len(data) > LONGEST_TEXT:
        raise AvsrError(f"{name}: {len(data) / 1e6:.0f} MB, more than the text of any recording (limit "
                        f"{LONGEST_TEXT / 1e6:.0f} MB).  Name a text or a subtitle file.")
    try:
        return decode(data) if encoding is None else data.decode(encoding)
    except (NotText, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, NotText) else f"byte {error.start} is no {encoding}"
        raise AvsrError(f"{name}: it cannot be read as text ({reason}).  Save it as UTF-8, or name its encoding with "
                        "--encoding, such as cp1252.") from error
    except LookupError as error:
        raise AvsrError(f"{name}: there is no encoding {encoding!r}.  Use one such as cp1252, latin-1 or utf-16.") from error


def read_given(path: str | Path, encoding: str | None = None) -> str:
    """The text of a file, see `decoded`. Raises AvsrError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AvsrError(f"{path}: cannot be read ({error.strerror or error}).  Name the text of the recording.") from error
    return decoded(data, str(path), encoding)


def given_words(text: str, language: str, name: str) -> list[GivenWord]:
    """The words of a text, or its characters where the language has no spaces between words.

    What is not spoken, such as a dash, is part of the word before it. Raises AvsrError for a text without a word.
    """
    words: list[GivenWord] = []
    opening = ""
    for number, paragraph in enumerate(PARAGRAPH.split(text.replace("\r\n", "\n").replace("\r", "\n"))):
        for piece in _pieces(paragraph, spaces=language not in SPACELESS_LANGUAGES):
            spoken = tuple(normalise(piece).split())
            if spoken:
                words.append(GivenWord(opening + piece, spoken, number))
                opening = ""
            elif words and words[-1].paragraph == number:
                words[-1] = GivenWord(words[-1].text + piece, words[-1].spoken, number)
            else:
                opening += piece
    if not words:
        raise AvsrError(f"{name}: there is no word in it.  Write down what is said, or let it be written: avsr transcribe.")
    return words


def _pieces(text: str, *, spaces: bool) -> list[str]:
    """The text cut before each run of white space, which becomes a single space; or into its characters."""
    if spaces:
        return [f" {word}" for word in text.split()]
    return list(clusters(" ".join(text.split())))
