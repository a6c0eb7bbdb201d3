"""Corpora: one file per layout, one function each, a folder in, a `Corpus` of utterances and of what was dropped out."""

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
"""Each is called `read(folder, split_list=None)`; raises BadManifest where the folder does not have its layout."""
