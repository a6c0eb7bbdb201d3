"""The settings of a training run: dataclass defaults, one short TOML with what differs, `--set key=value` on top.

    config.toml + overrides -> Config
A config with `extends = "other.toml"` takes over the settings of that file in the same folder, and names only what differs.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from avsr.augment import MAX_VALUES, Augment
from avsr.errors import BadConfig, quote
from avsr.remote import as_address
from avsr.schema import Between, InvalidValue, OneOf, type_hints, validate
from avsr.textfiles import read_toml

# Noise that needs no files: computed, or made of the training corpus's own speakers where there are enough of them.
OWN_NOISE = {"white": True, "pink": True, "speech-shaped": True, "babble": True, "talker": True}

# Keys of former versions, by where they stood, and what they are called now.
RENAMED = {
    "judges": "reliability", "judges.sights": "variants", "judges.attune_steps": "contrastive_steps",
    "model.ears_from": "audio_encoder_from", "model.lips_from": "video_encoder_from",
    "model.dims.lips": "video_frontend", "model.dims.n_trust": "n_reliability",
    "data.p_both": "p_audio_visual", "data.p_sound": "p_audio", "data.p_foreign": "p_mismatched",
    "data.p_ruined": "p_corrupted",
    "loss.trust": "reliability", "loss.trusted_loss": "readable_loss",
}
# Keys that no longer exist: which values change nothing without them, and why.
REMOVED = {
    "data.sound_draws": (lambda value: True, "every step encodes its sounds anew"),
    "model.dims.n_heed": (lambda value: value == 0, "the audio gate was removed, as it gained nothing"),
}

Settings = TypeVar("Settings", bound=Any)
Share = Annotated[float, Between(0, 1)]
Count = Annotated[int, Between(1, 10**9)]
CountOrNone = Annotated[int, Between(0, 10**9)]
Rate = Annotated[float, Between(1e-12, 10)]                 # Adam moves a weight by up to the rate in each step
Factor = Annotated[float, Between(0, 1000)]
Weight = Annotated[float, Between(0, 1e6)]
Decibels = Annotated[float, Between(-100, 100)]
Seed = Annotated[int, Between(0, 2**63 - 1)]                # torch takes up to 64 bits, TOML and others a sign beside 63


@dataclass(frozen=True)
class ModelConfig:
    """What is trained. start: a model whose audio parts, tokenizer and, where the dims allow, video encoder are taken over, or
    None. audio_encoder_from: a model whose audio encoder is taken over. video_encoder_from: a model whose video encoder is
    taken over with its mouth crop; "imagenet" or a .pth file of torchvision's resnet18, see train/imagenet.py."""

    start: str | None = None
    audio_encoder_from: str | None = None
    video_encoder_from: str | None = None
    dims: dict[str, Any] = field(default_factory=dict)      # fields of models.avsr.Dims that differ
    gates: float = 0.0                                      # opening tanh(g) of new gates at the start


@dataclass(frozen=True)
class DataConfig:
    """The training data. Paths are relative to the config file; a folder stands for the manifest.jsonl in it."""

    train: tuple[str, ...] = ()                             # manifests; their rows of split `train`
    optional: dict[str, Any] = field(default_factory=dict)  # training data that may be absent; by name: {manifest, teaches}
    valid: tuple[str, ...] = ()                             # manifests; their rows of split `valid`
    share: Share = 1.0                                      # of each speaker's training utterances that is used, at least one
    max_valid: CountOrNone = 500                            # utterances to validate with, evenly spaced; 0: all
    noise: dict[str, Any] = field(default_factory=lambda: dict(OWN_NOISE))      # see noise.open_training_sources
    snr: tuple[Decibels, Decibels] = (-10.0, 20.0)          # dB, drawn evenly
    p_clean: Share = 0.3                                    # share of sounds left without noise
    p_audio_visual: Share = 0.4                             # modality dropout: share of batches with both,
    p_audio: Share = 0.3                                    # with audio alone; the rest have video alone
    p_speed: Share = 0.5                                    # share played 0.9 to 1.1 times as fast
    p_mismatched: Share = 0.0                               # share of clips that get another's mouth, for the reliability
    p_corrupted: Share = 0.0                                # share of mouths that are made unreadable, likewise
    augment: dict[str, Any] = field(default_factory=dict)   # fields of augment.Augment that differ
    frames: Annotated[int, Between(1, 100_000)] = 900       # in a batch, at 25 a second
    max_seconds: Annotated[float, Between(1e-3, 3600)] = 30.0  # longer utterances are left out, and counted
    align: str | None = None                                # a model (name or folder) that finds word times by audio
    n_labels: Annotated[int, Between(0, 100_000)] = 500     # most frequent words that get frame labels of their own
    workers: Annotated[int, Between(0, 128)] = 1            # processes that make batches; 0: the training process does


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, see losses.py; 0 leaves one out."""

    attention: Weight = 1.0
    smoothing: Share = 0.1
    ctc_audio: Weight = 0.2
    ctc_video: Weight = 0.2
    ctc_fused: Weight = 0.2
    frames: Weight = 1.0
    reliability: Weight = 0.0
    readable_loss: Weight = 1.2                             # CTC loss per letter up to which a mouth counts as readable


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation."""

    steps: CountOrNone = 10_000                             # 0: only what follows the last step, as in [reliability]
    lr: Rate = 1e-3
    rates: dict[str, Factor] = field(default_factory=dict)  # factors on lr by pattern of names; the first that fits; 0: frozen
    warmup: CountOrNone = 500                               # steps
    final: Share = 0.05                                     # of lr, at the end of the cosine
    weight_decay: Annotated[float, Between(0, 10)] = 0.03
    betas: tuple[float, float] = (0.9, 0.98)
    dropout: Share = 0.0                                    # in the audio and video blocks
    clip: Annotated[float, Between(1e-12, 1e12)] = 5.0      # norm of the gradient
    accumulate: Annotated[int, Between(1, 10_000)] = 1      # batches to a step
    seed: Seed = 1
    threads: Annotated[int, Between(0, 256)] = 0            # of torch on the CPU; 0: as many as it likes
    valid_every: Count = 500                                # steps
    save_every: Count = 200
    keep: Annotated[int, Between(1, 100)] = 3               # best checkpoints, averaged at the end
    shard: bool = False                                     # the processes of torchrun share the weights, see train/parallel.py
    recompute: bool = False                                 # activations of the blocks, when the gradient needs them
    compile: Annotated[str, OneOf(("no", "yes"))] = "no"    # the blocks, by torch.compile


@dataclass(frozen=True)
class ReliabilityConfig:
    """How the reliability estimator is fitted after the last step, see train/reliability.py; variants 0: it is not."""

    variants: Annotated[int, Between(0, 100)] = 0           # mouths of each sound beside its own: corrupted, mismatched
    rows: Count = 300                                       # utterances at most, no speaker before another
    contrastive_steps: Count = 300                          # of contrastive pre-training on all utterances
    steps: Count = 400                                      # of the fit of the classifier
    lr: Rate = 3e-3
    margin: Share = 0.05                                    # share of the words that the video must save


@dataclass(frozen=True)
class PretrainConfig:
    """What `avsr pretrain` predicts, see pretrain/clusters.py; `avsr train` does not use it."""

    clusters: Annotated[int, Between(2, 10_000)] = 100      # of the sound's frames, by k-means
    clips: Count = 2000                                     # that the clusters are computed from, evenly spaced


@dataclass(frozen=True)
class Config:
    """A training run. `folder`: the config's, which its paths are relative to."""

    name: str
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    reliability: ReliabilityConfig = ReliabilityConfig()
    pretrain: PretrainConfig = PretrainConfig()
    folder: Path = Path()

    def path(self, name: str) -> Path:
        """A path as the config means it; an address such as s3://bucket/prepared stays what it is."""
        return Path(name) if as_address(name) else self.folder / name


def read_config(path: str | Path, overrides: Sequence[str] = (), warn: Callable[[str], None] = lambda sentence: None) -> Config:
    """A config file with `key=value` overrides (`train.lr=3e-4`). Raises BadConfig, which suggests the right key.
    warn: is called with a sentence for each key of a former version."""
    config = read_settings(Config, path, overrides, warn)
    _check(config, Path(path))
    return config


def read_settings(kind: type[Settings], path: str | Path, overrides: Sequence[str] = (),
                  warn: Callable[[str], None] = lambda sentence: None) -> Settings:
    """As `read_config`, for any dataclass of settings with the fields `name` and `folder`, before its values are compared."""
    path = Path(path)
    warnings: dict[str, None] = {}                              # in order, each sentence once
    values = _read(path, warnings)
    for override in overrides:
        _override(values, override, path, warnings)
    for sentence in warnings:
        warn(sentence)
    values.setdefault("name", path.resolve().parent.name)
    config = replace(_build(kind, values, str(path), ""), folder=path.resolve().parent)
    check_name(config.name, path)
    return config


def _read(path: Path, warnings: dict[str, None], above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tables of a config file over those of the file that it extends. above: the files that extend this one."""
    values = _renamed(read_toml(path, "a config.toml, as in experiments/"), str(path), warnings)
    if (other := values.pop("extends", None)) is None:
        return values
    if not isinstance(other, str) or Path(other).name != other:     # paths in both are relative to one folder
        raise BadConfig(f"{path}: extends is {quote(other)}, but must be the name of a file in the same folder.  "
                        "Put the file there and write its name alone, such as extends = \"base.toml\".")
    if path.with_name(other) in (path, *above):
        raise BadConfig(f"{path}: extends {other}, which extends this file again.  Remove one of the two lines.")
    return _merged(_read(path.with_name(other), warnings, (path, *above)), values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both tables in one, the values of `above` where both have one."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def _renamed(values: Mapping[str, Any], where: str, warnings: dict[str, None], above: str = "",
             below: str = "") -> dict[str, Any]:
    """A table under this version's keys; `warnings` gets a sentence for each key of a former version.

    above, below: the old and the new name of the table itself, with a dot. Raises BadConfig where a removed key asks for
    something that no longer exists.
    """
    out = {}
    for key, value in values.items():
        old = above + key
        if old in REMOVED:
            harmless, why = REMOVED[old]
            if not harmless(value):
                raise BadConfig(f"{where}: {old} is {quote(value)}, but {why}.  Remove it.")
            warnings[f"{where}: {old} has no effect any more, because {why}.  Remove it."] = None
            continue
        new = RENAMED.get(old, key)
        if new != key:
            warnings[f"{where}: {old} is now called {below}{new}; the old name still works."] = None
            if new in values:
                raise BadConfig(f"{where}: {old} is now called {below}{new}, and both are there.  Remove {old}.")
        out[new] = _renamed(value, where, warnings, f"{old}.", f"{below}{new}.") if isinstance(value, Mapping) else value
    return out


def _override(values: dict[str, Any], override: str, path: Path, warnings: dict[str, None]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not text.strip():
        raise BadConfig(f"--set {override}: has no value.  Write it as train.lr=3e-4, or as data.align=none to do without.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text                                        # a bare word is a string
    *sections, last = key.strip().split(".")
    table: dict[str, Any] = {last: value}
    for name in reversed(sections):
        table = {name: table}
    table = _renamed(table, f"{path}", warnings)
    for _ in sections:
        ((name, table),) = table.items()
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise BadConfig(f"--set {override}: {name} is no section.  Write it as train.lr=3e-4.")
    values.update(table)


def _build(kind: type, values: Mapping[str, Any], path: str, prefix: str) -> Any:
    hints = type_hints(kind)
    known = [f.name for f in fields(kind) if f.name != "folder"]
    out = {}
    for key, value in values.items():
        if key not in known:
            raise _unknown(path, prefix, key, known)
        if is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise BadConfig(f"{path}: {prefix}{key} is a section, not {quote(value)}.  "
                                f"Write [{prefix}{key}] above its settings.")
            out[key] = _build(hints[key], value, path, f"{key}.")
        else:
            out[key] = _value(value, hints[key], path, prefix + key, _default(kind, key))
    return kind(**out)


def _unknown(path: str | Path, prefix: str, key: str, known: Sequence[str]) -> BadConfig:
    nearest = get_close_matches(key, known, 1, 0.5)
    hint = f"Did you mean {prefix}{nearest[0]}?" if nearest else f"Known are {', '.join(known)}."
    return BadConfig(f"{path}: {prefix}{key} is not a setting.  {hint}")


def _default(kind: type, key: str) -> Any:
    """The default of a field of a dataclass; MISSING if it has none."""
    (one,) = (f for f in fields(kind) if f.name == key)
    return one.default if one.default_factory is MISSING else one.default_factory()


def _value(value: Any, hint: Any, path: str | Path, name: str, default: Any) -> Any:
    """`value` as the type that the field wants. Raises BadConfig, which suggests the default."""
    if value == "" and typing.get_origin(hint) is types.UnionType:
        raise BadConfig(f"{path}: {name} is empty.  Give it a value, or write \"none\" to do without.")
    try:
        return validate(value, hint, name, null="none")     # TOML has no null
    except InvalidValue as error:
        if default == ():
            remedy = f'Write {name} = ["FOLDER"], a folder that `avsr prepare` made.'
        elif default is MISSING or isinstance(default, dict):
            remedy = "Remove it to use the default."
        else:
            remedy = f"Write {name} = {quote('none' if default is None else default)}, the default."
        raise BadConfig(f"{path}: {error}.  {remedy}") from error


def check_name(name: str, path: Path) -> None:
    """Raises BadConfig where a run cannot have this name."""
    if not name or name != Path(name).name or name == ".." or "\0" in name:
        raise BadConfig(f"{path}: name is {quote(name)}, but must be a name for the run's folder within runs/.  "
                        "Use letters, digits and dashes.")


def _check(config: Config, path: Path) -> None:
    """Raises BadConfig for settings that do not go together, and where there is no data to train on."""
    if not config.train.steps and not config.reliability.variants:
        raise BadConfig(f"{path}: train.steps is 0, but must be above 0 where no reliability estimator is fitted after it.  "
                        f"Write train.steps = {TrainConfig.steps}, or set reliability.variants.")
    if (share := config.data.p_audio_visual + config.data.p_audio) > 1 + 1e-9:
        raise BadConfig(f"{path}: data.p_audio_visual + data.p_audio is {share:.2f}, but must be at most 1: the rest "
                        "is the share of video alone.  Lower one of them.")
    known = [f.name for f in fields(Augment)]
    for name, amount in config.data.augment.items():
        if name not in known:
            raise _unknown(path, "data.augment.", name, known)
        _value(amount, Annotated[type(getattr(Augment, name)), Between(0, MAX_VALUES[name])], path, f"data.augment.{name}",
               getattr(Augment, name))
    for name, one in config.data.optional.items():          # false leaves out what another config names
        if one is not False and not (isinstance(one, dict) and sorted(one) == ["manifest", "teaches"]
                                     and all(isinstance(text, str) and text for text in one.values())):
            raise BadConfig(f"{path}: data.optional.{name} is {quote(one)}, but must be a table of two "
                            "texts: the manifest, and teaches, what is not learnt without it.  "
                            f"Write data.optional.{name} = {{manifest = \"FOLDER\", teaches = \"...\"}}.")
    low, high = config.data.snr
    if low > high:
        raise BadConfig(f"{path}: data.snr is [{low:g}, {high:g}], but must run from the lowest to the highest.  Swap them.")
    if not all(0 <= beta < 1 for beta in config.train.betas):
        raise BadConfig(f"{path}: train.betas is {list(config.train.betas)}, but both must be from 0 to below 1.  "
                        f"Write betas = {list(TrainConfig.betas)}.")
    if not -1 < config.model.gates < 1:
        raise BadConfig(f"{path}: model.gates is {config.model.gates:g}, but must be between -1 and 1.  "
                        f"Write gates = {ModelConfig.gates}.")
    if not config.data.train or not config.data.valid:
        missing = "train" if not config.data.train else "valid"
        raise BadConfig(f"{path}: data.{missing} names no manifest.  Add a section [data] with train = [\"...\"] and "
                        "valid = [\"...\"], as `avsr prepare` made them.")
