"""What a benchmark measures: settings, and the conditions that follow from them. Loads nothing heavy.

    --noise babble,white --snr clean,0 --corrupt blur
        -> BenchmarkSettings -> AudioCondition(None, None, ...), AudioCondition("babble", 0.0, ...), ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avsr.corrupt import Corruption
from avsr.errors import AvsrError
from avsr.names import MODALITIES

Task = tuple[str, Corruption | None]                        # a modality, and what is wrong with the video


@dataclass(frozen=True)
class BenchmarkSettings:
    """What `avsr benchmark --help` lists. snrs, corrupt_snrs: dB, None for clean.  given: folders of noises by name."""

    split: str = "test"
    models: tuple[str, ...] = ("default",)
    lips: tuple[str, ...] = ()                              # second models, each of which reads the lips for each of `models`
    against: tuple[str, ...] = ()
    noises: tuple[str, ...] | None = None                   # None: babble of the test's own speakers, or speech-shaped noise
    given: Mapping[str, str] = field(default_factory=dict)
    snrs: tuple[float | None, ...] = (None, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
    corruptions: tuple[Corruption, ...] = ()
    corrupt_snrs: tuple[float | None, ...] = (None, 0.0)
    modalities: tuple[str, ...] = MODALITIES
    level: str = "active"
    noise_config: str | None = None
    noise_manifest: str | None = None
    lm: str | None = None                                   # what helps the search of `models`, see decode.HELPS
    lm_weight: float | None = None
    rescore: str | None = None
    rescore_weight: float | None = None
    hotwords: str | None = None
    hotword_weight: float | None = None
    correct: str | None = None                              # a corrector after `models`, see correct
    beam_size: int | None = None                            # None: the default of each model
    batch_size: int = 16
    max_missing: float = 0.25
    limit: int | None = None
    normaliser: str = "avsr"                                # a key of text.NORMALISERS, by which reports compare the texts
    device: str = "auto"


@dataclass(frozen=True)
class AudioCondition:
    """A noise and an SNR in dB, both None for clean, and the tasks that are measured with this audio."""

    noise: str | None
    snr_db: float | None
    tasks: tuple[Task, ...]


def parse_snrs(text: str) -> tuple[float | None, ...]:
    """`clean,10,-5` -> (None, 10.0, -5.0). Raises AvsrError."""
    out: list[float | None] = []
    for word in (part.strip() for part in text.split(",")):
        try:
            value = None if word == "clean" else float(word)
        except ValueError:
            value = math.nan
        if value is not None and not abs(value) <= 100:
            raise AvsrError(f"SNR {word!r}: neither clean nor a number of dB from -100 to 100.  Write it as clean,10,0,-5.")
        out.append(value)
    return tuple(dict.fromkeys(out))


def parse_noises(texts: Iterable[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """`babble,rain=FOLDER` -> the names, and the folders given for some of them. Raises AvsrError."""
    names, given = [], {}
    for word in (part for text in texts for part in _list_items(text)):
        name, equals, folder = word.partition("=")
        if not name or (equals and not folder):
            raise AvsrError(f"noise {word!r}: a name is missing.  Write it as babble or rain=FOLDER.")
        if equals and given.setdefault(name, folder) != folder:
            raise AvsrError(f"noise {name}: given as {given[name]} and as {folder}.  Give the second another name.")
        names.append(name)
    return tuple(dict.fromkeys(names)), given


def _list_items(text: str) -> list[str]:
    """The items of a list with commas. The path of NAME=PATH is the longest one that exists, commas included."""
    parts, out = text.split(","), []
    while parts:
        name, equals, _ = parts[0].partition("=")
        paths = {n: ",".join(parts[:n])[len(name) + 1:] for n in range(len(parts), 1, -1)} if equals else {}
        n = next((n for n, path in paths.items() if Path(path.strip()).exists()), 1)
        out.append(",".join(parts[:n]).strip())
        parts = parts[n:]
    return out


def parse_modalities(text: str) -> tuple[str, ...]:
    """`a,v,av` in the order of MODALITIES. Raises AvsrError."""
    asked = {part.strip() for part in text.split(",")}
    if unknown := sorted(asked - set(MODALITIES)):
        raise AvsrError(f"modality {unknown[0]!r}: not known.  Use a (sound), v (video), av (both) and none (neither).")
    return tuple(one for one in MODALITIES if one in asked)


def conditions(settings: BenchmarkSettings, modalities: Sequence[str]) -> list[AudioCondition]:
    """Everything that is measured of a system with these modalities; `settings.noises` must be named.

    Video alone is measured once for all noises, audio alone once for all corruptions. Corrupted video is shown with clean
    audio and with noise at `corrupt_snrs`, where audio alone is measured as well.
    """
    corruptions, corrupt_snrs = settings.corruptions, settings.corrupt_snrs
    levels = (*settings.snrs, *(corrupt_snrs if corruptions else ()))
    clean: list[Task] = [(one, None) for one in MODALITIES if one in ("none", "v") or None in levels]
    clean += [(one, bad) for bad in corruptions for one in ("v", "av") if one == "v" or None in corrupt_snrs]
    out = [AudioCondition(None, None, tuple(clean))]
    for noise in settings.noises or ():
        for snr in dict.fromkeys(snr for snr in levels if snr is not None):
            corrupted = corruptions if snr in corrupt_snrs else ()
            out.append(AudioCondition(noise, snr, (("a", None), ("av", None), *(("av", one) for one in corrupted))))
    kept = [replace(one, tasks=tuple(task for task in one.tasks if task[0] in modalities)) for one in out]
    return [one for one in kept if one.tasks]


def noise_config(asked: str | Path | None) -> Path | None:
    """The file that describes the noises: the one asked for, None for the built-in ones alone. Raises AvsrError."""
    if asked is None or asked == "none":
        return None
    if not Path(asked).is_file():
        raise AvsrError(f"{asked}: no such file.  Name a noise.toml; experiments/noise_grid/noise.toml shows one.")
    return Path(asked)


def group_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of an utterance by which results can be grouped: all but `trust`, which is for training."""
    return {name: value for name, value in labels.items() if name != "trust"}
