"""`Source`: what can be fetched, its licence, and its files. The tables are in sources.py (corpora, noise) and models.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avsr.download import Remote


@dataclass(frozen=True)
class Source:
    """A corpus or noise in one or more parts, each an archive; or a model, whose parts are plain files.

    kind: corpus, noise or model. size: in words, for lists. terms: the address of the licence's text. must_agree: whether the
    user must agree to the licence, because it forbids some uses. parts: name of a part -> name of its file. default: the parts
    that are fetched if none is named. record: the number of the Zenodo record. files: those of other publishers, by name.
    licence_ids: the record's known names of the licence; the user must agree to a licence of another name. leading: a pattern
    of the first folder in the archives, which is left out. keep: a regular expression of the members to unpack. absent: the
    numbers of speakers without a part, and the reason. use: the next command, with {folder}.
    """

    name: str
    kind: str
    what: str
    size: str
    licence: str
    terms: str
    cite: str
    use: str
    parts: Mapping[str, str]
    default: tuple[str, ...]
    record: str | None = None
    files: Mapping[str, Remote] = field(default_factory=dict)
    licence_ids: tuple[str, ...] = ()
    must_agree: bool = False
    leading: str | None = None
    keep: str | None = None
    speakers: int = 0
    absent: Mapping[int, str] = field(default_factory=dict)
