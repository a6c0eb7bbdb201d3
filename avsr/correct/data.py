"""What a corrector is taught on: real lists, lists simulated for other texts, and speech that it must leave alone.

    CorrectConfig -> TrainingData -> pairs of (lists as pieces, text as pieces), by the number of the step alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from avsr.config import Count, Share, TrainConfig
from avsr.correct.corrector import kind_of
from avsr.correct.lists import LabelledLists, Lists, NBest, read_file
from avsr.correct.simulate import Confusions
from avsr.correct.vocabulary import Vocabulary
from avsr.errors import BadConfig, BadManifest
from avsr.schema import Between
from avsr.text import normalise
from avsr.textfiles import read_text

# Which lists an example shows, and how often: of two models, of a model by sound, by lips, by both.
SHOWN = {("a", "v", "av"): 0.55, ("a",): 0.25, ("v",): 0.1, ("av",): 0.1}
GOOD, BAD = 1, 2                                            # see simulate.kind_of
SHORT, LONG = 2, 25                                         # words of speech that is to be left alone

DEFAULT = TrainConfig(steps=1600, warmup=100, lr=4e-3, valid_every=400, save_every=200)
Pairs = tuple[list[list[int]], list[list[int]]]


@dataclass(frozen=True)
class CorrectDataConfig:
    """Paths are relative to the config file. train, valid: lists by `avsr correct nbest`. texts: of the language that the
    recogniser is to be corrected to, a sentence a line. other_texts: of any other speech, which is to be left alone. simulated,
    other: share of examples with a text of `texts` and of `other_texts`; the rest are real lists."""

    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    other_texts: tuple[str, ...] = ()
    simulated: Share = 0.4
    other: Share = 0.15
    batch: Count = 48                                       # examples in a step
    n_pieces: Annotated[int, Between(64, 32_000)] = 400     # of words, which the vocabulary learns


@dataclass(frozen=True)
class CorrectConfig:
    """The training of a corrector. dims: fields of network.TextDims that differ. train: as of `avsr train`; rates, accumulate
    and keep are not used."""

    name: str
    dims: dict[str, Any] = field(default_factory=dict)
    data: CorrectDataConfig = CorrectDataConfig()
    train: TrainConfig = DEFAULT
    folder: Path = Path()

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Paths as the config means them."""
        return [self.folder / name for name in names]


class TrainingData:
    """Makes the examples of every step."""

    def __init__(self, config: CorrectConfig):
        """Raises BadConfig, BadManifest where a file is missing or has nothing to learn from."""
        data = config.data
        if not data.train or not data.valid:
            missing = "train" if not data.train else "valid"
            raise BadConfig(f"{config.name}: data.{missing} names no n-best lists.  Make them with avsr correct nbest, and "
                            f"write {missing} = [\"FILE\"] in section [data].")
        self.config = config
        self.train = [one for path in config.paths(data.train) for one in read_file(path)]
        self.valid = [one for path in config.paths(data.valid) for one in read_file(path)]
        if both := {one.id for one in self.train} & {one.id for one in self.valid}:
            raise BadManifest(f"{config.name}: {len(both)} utterances are in data.train and in data.valid, such as "
                              f"{sorted(both)[0]}.  Make the lists of two splits.")
        self.real = [one for one in self.train if one.reference and one.lists]
        if not self.real:
            raise BadManifest(f"{config.name}: none of the {len(self.train)} lists of data.train has a reference and a text.  "
                              "Make them of clips with speech and texts.")
        self.texts = sentences(config.paths(data.texts))
        self.others = sentences(config.paths(data.other_texts))
        self.confusions = Confusions(self.real)
        kinds = [one.kind for one in self.confusions.examples]
        self.heard = [i for i, (sound, _) in enumerate(kinds) if sound <= GOOD] or list(range(len(kinds)))
        self.unread = [i for i, (_, lips) in enumerate(kinds) if lips == BAD]

    def vocabulary_texts(self) -> list[str]:
        """All texts of which pieces are learnt; those of lists count once, and each simulated text once."""
        found = [text for one in self.real for of in one.lists.values() for text in of.texts]
        return [*found, *(one.reference for one in self.real), *self.texts, *self.others[:len(found)]]

    def batch(self, step: int, vocabulary: Vocabulary, most: Sequence[int], n_input: int) -> Pairs:
        """The inputs and targets of a step, as pieces; inputs that are too long are drawn anew."""
        rng = np.random.default_rng([self.config.train.seed, step])
        inputs, targets = [], []
        while len(inputs) < self.config.data.batch:
            lists, text = self.example(rng)
            pieces = vocabulary.encode_lists(lists, most)
            if len(pieces) <= n_input:
                inputs.append(pieces)
                targets.append([vocabulary.keep] if text is None else vocabulary.encode(text))
        return inputs, targets

    def example(self, rng: np.random.Generator) -> tuple[Lists, str | None]:
        """Lists and the text that they should become, None where it is to be left alone."""
        kind, data = rng.random(), self.config.data
        if kind < data.other and self.others:
            return shown(self._other(rng), rng), None
        if kind < data.other + data.simulated and self.texts:
            text = self.texts[int(rng.integers(len(self.texts)))]
            return shown(self.confusions.simulate(text, rng), rng), text
        one = self.real[int(rng.integers(len(self.real)))]
        return shown(one.lists, rng), one.reference

    def _other(self, rng: np.random.Generator) -> Lists:
        """Other speech: heard well, in part, and read by lips that cannot write it."""
        n = int(rng.integers(SHORT, LONG + 1))
        words = self.others[int(rng.integers(len(self.others)))].split()
        first = int(rng.integers(max(1, len(words) - n + 1)))
        heard = self.heard[int(rng.integers(len(self.heard)))]
        lists = dict(self.confusions.simulate(" ".join(words[first:first + n]), rng, heard))
        lists.pop("v", None)
        if self.unread and rng.random() < 0.5:
            lists["v"] = self.confusions.examples[self.unread[int(rng.integers(len(self.unread)))]].lists.lists["v"]
        return lists


def shown(lists: Lists, rng: np.random.Generator) -> Lists:
    """Some of the lists, as one of the recognisers has them that are to be corrected."""
    sets = [names for names in SHOWN if names[-1] in lists and names[0] in lists]
    if not sets:
        return lists
    shares = np.array([SHOWN[names] for names in sets])
    names = sets[int(rng.choice(len(sets), p=shares / shares.sum()))]
    return {name: lists[name] for name in names if name in lists}


def sentences(paths: Sequence[Path]) -> list[str]:
    """The normalised lines of text files, without empty ones. Raises BadManifest."""
    found = []
    for path in paths:
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadManifest(f"{path}: these texts cannot be read ({reason}).  Give a file of text.") from error
        lines = [line for line in map(normalise, text.splitlines()) if line]
        if not lines:
            raise BadManifest(f"{path}: there is no text in it.  Give a text file, a sentence a line.")
        found += lines
    return found


def systems(one: LabelledLists) -> dict[str, tuple[Lists, str]]:
    """By recogniser the lists and the text of an utterance: the one that made them, and its models alone."""
    out = {kind_of(one.lists): (one.lists, one.own)}
    for modality in ("a", "v"):
        if modality in one.lists and len(one.lists) > 1:
            found: NBest = one.lists[modality]
            out[modality] = ({modality: found}, found.texts[0])
    return out
