"""What an importer knows of a family of published files; one file of this folder per family.

A family answers five questions, each by a function or a fact: is this file yours, what sizes has its network, where does
each weight go, what may the user do with it, and how do its authors decode. All else is done for it: reading, what is left
over, missing or misfits, the tokenizer (SentencePiece's, see pieces), a trial, writing.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from torch import Tensor

from avsr.models.hybrid import HybridDims


@dataclass(frozen=True)
class Known:
    """A published file. md5: the first five hex digits; wer: in % on LRS3's test set, as its authors say, None if they do not.

    Files of one name may differ: only md5 tells them apart.
    """

    file: str
    modality: str
    source: str
    md5: str
    wer: float | None


@dataclass(frozen=True)
class Converted:
    """A network's dims; its weights under our names; theirs, by ours; and those of theirs that no place was found for."""

    dims: HybridDims
    weights: dict[str, Tensor]
    theirs: dict[str, str]
    left_over: list[str]


@dataclass(frozen=True)
class Family:
    """recognises: from the names of the weights. part: what file these are names of, if it is only part of a model, in
    words; None for any other. convert: takes the weights out of the dict it is given, so that there is no second copy of
    them, and raises KeyError with the name of what it cannot do without. licence: a sentence or two for the user.
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
