"""Names: the four modalities, and names that other people gave.

    id -> the name of its file;  any text -> text that is harmless on a terminal
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

MODALITIES = ("none", "a", "v", "av")                       # what a model is given: neither audio nor video, audio, video, both
INPUT_MODALITIES = MODALITIES[1:]
MODALITY_NAMES = {"a": "sound", "v": "lips", "av": "sound and lips"}        # in messages
LONGEST = 100                                               # bytes of a name kept; file systems allow 255, ending included
TAKEN = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*-[0-9a-f]{8}")       # names of devices on Windows, and our own form
# What a terminal obeys or what turns the order of letters around: controls (C0, C1, so ANSI sequences too), embeddings,
# overrides and isolates of direction, line separators; and half characters, which are bytes of a name that is no UTF-8.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def file_name(name: str) -> str:
    """A name for a file, without ending, that differs for any two names, on file systems that ignore case as well.

    A name that every file system can hold stays as it is: `s1_bbaf2n`. Of others what can be kept is kept, and eight digits of
    the sha256 are put behind it: `a/b_c` -> a_b_c-ab14be70, `A` -> A-559aead0.
    """
    kept = re.sub(r'[/\\:*?"<>|]', "_", escape_controls(name)).strip(" .").encode()[:LONGEST].decode(errors="ignore")
    if name and name == kept == unicodedata.normalize("NFC", name).lower() and not TAKEN.fullmatch(name):
        return name
    return f"{kept}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def escape_controls(text: str, *, lines: bool = False) -> str:
    r"""The text with what a terminal would obey spelt out: an escape character becomes `\x1b`. Letters of every script stay.

    lines: whether line breaks and tabs may stay as they are.
    """
    def spelt(found: re.Match[str]) -> str:
        return found[0] if lines and found[0] in "\n\t" else found[0].encode("unicode_escape").decode()

    return CONTROLS.sub(spelt, text)
