"""Errors that the user can put right, as exceptions whose text is the message that is shown.

A message names the file and the problem with its numbers, then the remedy. Mistakes of the program itself are `assert`s.
"""

import json
from collections.abc import Iterable
from typing import Any

LONGEST_QUOTE = 40                                          # characters of a value in a message


def counted(number: int, thing: str) -> str:
    """A number of things in words: `1 utterance`, `2 utterances`. thing: its name in the singular."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def quote(value: Any) -> str:
    """A value as a message shows it: as JSON, on one line, cut off after LONGEST_QUOTE characters."""
    if isinstance(value, int) and abs(value) >= 10**LONGEST_QUOTE:
        return f"a number of more than {LONGEST_QUOTE} digits"
    if isinstance(value, str) and len(value) > LONGEST_QUOTE:
        return json.dumps(f"{value[:LONGEST_QUOTE]}...")
    try:
        text = json.dumps(value, default=str)
    except (ValueError, TypeError, RecursionError):         # Python writes no number of more than 4,300 digits
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def listed(names: Iterable[str], n: int = 3, longest: int = 100) -> str:
    """The first few names for a message, on one line whatever is in them."""
    names = list(names)
    first = [name if name.isprintable() and len(name) <= longest else ascii(name[:longest]) for name in names[:n]]
    return ", ".join(first) + (f" and {len(names) - n} more" if len(names) > n else "")


class AvsrError(Exception):
    """Any error that the user can put right; `str(error)` is one sentence and a remedy."""


class BadMedia(AvsrError):
    """A recording cannot be read, or has neither audio nor video that can be used."""


class NoFace(AvsrError):
    """Lips should be read, but too few frames show a face."""


class BadManifest(AvsrError):
    """A manifest, a table or a list has a missing field or a wrong value, or names a file that does not exist."""


class BadCheckpoint(AvsrError):
    """Weights that are damaged, of another shape, or made for mouths that were cut out in another way."""


class MissingAsset(AvsrError):
    """A file that the program needs was not found, could not be downloaded, or has the wrong sha256."""


class BadDownload(AvsrError):
    """A server refuses a file, sends a part of it or sends another file than published; or an archive is damaged.

    problem: the part of the message between the names and the remedy. network: whether other downloads would fail as well.
    """

    def __init__(self, message: str, problem: str = "", *, network: bool = False):
        super().__init__(message)
        self.problem, self.network = problem or message, network


class NotInModel(MissingAsset):
    """A model of the hub does not have this file."""


class BadOutput(AvsrError):
    """A result could not be written: no such folder, no permission, disk full."""


class BadConfig(AvsrError):
    """A training config has an unknown key, a value out of range, or no section that it needs."""
