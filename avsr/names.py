"""Names: the four modalities and the words for them, and names given by other people.

    id -> the name of its file;  any text -> text that is harmless on a terminal
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import NamedTuple

MODALITIES = ("none", "a", "v", "av")                       # a model is given nothing, audio, video, or both
DEFAULT_MODEL = "default"
INPUT_MODALITIES = MODALITIES[1:]
LONGEST = 100                                               # bytes of a name that are kept; file systems allow 255
TAKEN = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*-[0-9a-f]{8}")       # Windows devices, and our form
# Characters that control a terminal (C0, C1 and so ANSI sequences) or the direction of text, line separators, and surrogates,
# which stand for bytes of a name that is not UTF-8.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class ModalityName(NamedTuple):
    """The words for a modality. short: in tables and figures.  long: in sentences."""

    short: str
    long: str


MODALITY_NAMES = {"a": ModalityName("sound", "sound alone"), "v": ModalityName("video", "video alone"),
                  "av": ModalityName("both", "sound and video together"), "none": ModalityName("neither", "no input")}


def file_name(name: str) -> str:
    """A file name, without suffix, that differs for any two names, even on file systems that ignore case.

    A name that every file system can hold stays as it is: `s1_bbaf2n`. Other names lose what a file system may refuse and get
    eight digits of their sha256: `a/b_c` -> a_b_c-ab14be70, `A` -> A-559aead0.
    """
    kept = re.sub(r'[/\\:*?"<>|]', "_", escape_controls(name)).strip(" .").encode()[:LONGEST].decode(errors="ignore")
    if name and name == kept == unicodedata.normalize("NFC", name).lower() and not TAKEN.fullmatch(name):
        return name
    return f"{kept}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def escape_controls(text: str, *, lines: bool = False) -> str:
    r"""The text with control characters written as escapes: ESC becomes `\x1b`. Letters of every script stay.

    lines: whether line breaks and tabs stay as they are.
    """
    def escaped(found: re.Match[str]) -> str:
        return found[0] if lines and found[0] in "\n\t" else found[0].encode("unicode_escape").decode()

    return CONTROLS.sub(escaped, text)
