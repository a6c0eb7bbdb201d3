"""Corpora: one file and one function for each layout. A folder goes in; its utterances, and what was dropped, come out."""

from collections.abc import Callable

from avsr.corpora import folder, grid, lombard, lrs, tcd_timit
from avsr.manifest import Corpus

CORPORA: dict[str, Callable[..., Corpus]] = {
    "folder": folder.read,
    "grid": grid.read,
    "lombard": lombard.read,
    "lrs2": lrs.read,
    "lrs3": lrs.read,
    "tcd-timit": tcd_timit.read,
}
"""The readers, called as `read(folder, split_list=None)`; they raise BadManifest for a folder of another layout."""
