"""What can go wrong in the user's world, as exceptions whose text is the message shown.

A message names the file, the problem with its numbers, then the remedy. Mistakes of ours are `assert`s.
"""

import json
from typing import Any

LONGEST_QUOTE = 40                                          # characters of a value in a message


def counted(number: int, thing: str) -> str:
    """A number of things in words: `1 utterance`, `2 utterances`. thing: in the singular."""
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


class AvsrError(Exception):
    """Anything the user can put right; `str(error)` is one sentence and a remedy."""


class BadMedia(AvsrError):
    """A recording that cannot be read, or holds neither sound nor picture that can be used."""


class NoFace(AvsrError):
    """Lips were asked for and no face was found in enough frames."""


class BadManifest(AvsrError):
    """A corpus list with a missing field, a wrong value or a file that is not there."""


class BadCheckpoint(AvsrError):
    """Weights that are damaged, of another shape, or made for mouths that were cut out in another way."""


class MissingAsset(AvsrError):
    """A file the program needs could not be found, fetched, or had the wrong sha256."""


class BadDownload(AvsrError):
    """A file that a server does not give, gives in part or gives another way than published; or an archive that is damaged.

    problem: the part of the message between the names and the remedy; network: whether other files would meet with the same.
    """

    def __init__(self, message: str, problem: str = "", *, network: bool = False):
        super().__init__(message)
        self.problem, self.network = problem or message, network


class NotInModel(MissingAsset):
    """A file that a model of the hub does not have."""


class BadOutput(AvsrError):
    """A result that could not be written: no such folder, no permission, disk full."""


class BadConfig(AvsrError):
    """A training config with an unknown key, a value out of range, or a missing section."""
