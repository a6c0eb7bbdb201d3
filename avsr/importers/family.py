"""The description of a family of published files; each family has one file in this folder.

The rest is common to all: reading, the check of the weights, the tokenizer (SentencePiece's), a trial run, writing.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from torch import Tensor

from avsr.models.hybrid import HybridDims


@dataclass(frozen=True)
class Known:
    """A published file. md5: its first five hex digits; wer: in % on LRS3's test set, as its authors report it, or None."""

    file: str
    modality: str
    source: str
    md5: str
    wer: float | None


@dataclass(frozen=True)
class Converted:
    """A network's dims, its weights under our names, their names by ours, and the names that have no place in our network."""

    dims: HybridDims
    weights: dict[str, Tensor]
    theirs: dict[str, str]
    left_over: list[str]


@dataclass(frozen=True)
class Family:
    """recognises: whether weights of these names are of the family. part: in words, what a file with these names is if it is
    only part of a model, or None. convert: takes the weights out of the dict it is given, so that there is no second copy,
    and raises KeyError with the name of a weight that it needs. licence: a sentence or two for the user.
    mouth_crop: name of the mouth crop, see lips.MOUTH_CROPS. search: settings of decode.DecodeOptions that the authors report
    their figures with. tokenizer: which files its authors keep it in, and where, in words."""

    name: str
    recognises: Callable[[Set[str]], bool]
    part: Callable[[Set[str]], str | None]
    convert: Callable[[dict[str, Tensor]], Converted]
    known: tuple[Known, ...]
    licence: str
    mouth_crop: str
    search: dict
    tokenizer: str
