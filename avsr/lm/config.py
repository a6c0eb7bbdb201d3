"""The settings of a language model's training: dataclass defaults, a short TOML with what differs, `--set key=value` on top.

    lm.toml + overrides -> LMConfig
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from avsr.config import Count, CountOrNone, Factor, Rate, Seed, Share, read_settings
from avsr.errors import BadConfig
from avsr.lm.networks import Size
from avsr.lm.spelling import Spelling
from avsr.schema import Between, OneOf

KINDS = ("ngram", "lstm", "gpt")


@dataclass(frozen=True)
class TextConfig:
    """The texts. Paths are relative to the config: text files with a sentence a line (.txt, or .gz of one), manifests or their
    folders, tables with a column `text` or, of GRID's sentences, `utterance`.

    Of a manifest or a table with splits, train takes the split `train`, valid the split `valid`, held_out all but `train`.
    """

    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()                          # sentences that are taken out of train, as those of valid are
    spelling: Spelling = "normalised"                       # see spelling.py


@dataclass(frozen=True)
class NgramConfig:
    """An n-gram model. order: words of the longest. min_counts: how often an n-gram must occur to be kept, by order from 1 on,
    the last for all higher orders; n-grams of order 1 are all kept."""

    order: Annotated[int, Between(1, 6)] = 3
    min_counts: Annotated[tuple[Count, ...], Between(1, 6)] = (1,)


@dataclass(frozen=True)
class NetworkConfig:
    """The sizes of a network, see networks.LMDims. min_count: how often a token must occur to get a class of its own."""

    width: Size = 256
    n_layers: Annotated[int, Between(1, 256)] = 1
    hidden: Size = 512
    n_heads: Size = 4
    n_context: Annotated[int, Between(4, 2**20)] = 256
    min_count: Count = 1
    dropout: Share = 0.1


@dataclass(frozen=True)
class LMTrainConfig:
    """The optimisation. batch_tokens: in a step, those of padding included."""

    steps: CountOrNone = 2000
    batch_tokens: Count = 4096
    lr: Rate = 2e-3
    warmup: CountOrNone = 100                               # steps
    final: Share = 0.02                                     # of lr, at the end of the cosine
    weight_decay: Annotated[float, Between(0, 10)] = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    smoothing: Share = 0.0
    clip: Factor = 1.0
    seed: Seed = 1
    threads: Annotated[int, Between(0, 256)] = 0            # of torch on the CPU; 0: as many as it likes
    bfloat16: bool = True                                   # for products; on a CPU that has no such products it is slower
    valid_every: Count = 200                                # steps
    save_every: Count = 200


@dataclass(frozen=True)
class LMConfig:
    """The training of a language model. tokenizer: a recogniser, whose tokens an LSTM or GPT scores. from_decoder: whether a
    GPT begins with the weights of this recogniser's text decoder, which has read more already. `folder`: the config's."""

    name: str
    kind: Annotated[str, OneOf(KINDS)] = "ngram"
    tokenizer: str | None = None
    from_decoder: bool = False
    data: TextConfig = TextConfig()
    ngram: NgramConfig = NgramConfig()
    network: NetworkConfig = NetworkConfig()
    train: LMTrainConfig = LMTrainConfig()
    folder: Path = Path()

    def path(self, name: str) -> Path:
        """A path as the config means it."""
        return self.folder / name


def read_lm_config(path: str | Path, overrides: Sequence[str] = ()) -> LMConfig:
    """A config with overrides. Raises BadConfig, which suggests the right key."""
    config = read_settings(LMConfig, path, overrides)
    if not config.data.train:
        raise BadConfig(f"{path}: data.train names no text.  Add a section [data] with train = [\"...\"]: text files with a "
                        "sentence a line, or manifests.")
    if config.kind == "ngram":
        return config
    if config.tokenizer is None:
        raise BadConfig(f"{path}: a {config.kind} scores a recogniser's tokens, and tokenizer names none.  Write tokenizer = "
                        "\"tiny.en\", or the name or folder of the model that it is for.")
    if not config.data.valid:
        raise BadConfig(f"{path}: data.valid names no text, by which the best step is chosen.  Add valid = [\"...\"] to "
                        "[data].")
    if not config.train.steps:
        raise BadConfig(f"{path}: train.steps is 0.  Write train.steps = {LMTrainConfig.steps}.")
    if config.kind == "gpt" and config.network.width % config.network.n_heads:
        raise BadConfig(f"{path}: network.width is {config.network.width}, which does not divide into {config.network.n_heads} "
                        "heads.  Choose a multiple of network.n_heads.")
    return config
