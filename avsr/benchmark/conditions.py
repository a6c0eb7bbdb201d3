"""What is to be measured: noises, SNRs, bad pictures and modalities in, conditions out, grouped by what is heard.

    --noise babble,white --snr clean,0 --corrupt blur  ->  Heard(None, None), Heard("babble", 0.0), ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avsr.corrupt import Corruption
from avsr.errors import AvsrError
from avsr.names import MODALITIES


@dataclass(frozen=True)
class Heard:
    """One way to hear the whole test set (noise and SNR in dB, both None for clean), and all that is measured in it:
    modalities with their pictures, None for a good one."""

    noise: str | None
    snr_db: float | None
    tasks: tuple[tuple[str, Corruption | None], ...]

    def __str__(self) -> str:
        return "clean" if self.noise is None else f"{self.noise} at {self.snr_db:g} dB"


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
    for word in (part for text in texts for part in _parts(text)):
        name, equals, folder = word.partition("=")
        if not name or (equals and not folder):
            raise AvsrError(f"noise {word!r}: a name is missing.  Write it as babble or rain=FOLDER.")
        if equals and given.setdefault(name, folder) != folder:
            raise AvsrError(f"noise {name}: given as {given[name]} and as {folder}.  Give the second another name.")
        names.append(name)
    return tuple(dict.fromkeys(names)), given


def _parts(text: str) -> list[str]:
    """What stands between the commas of a list. In NAME=PATH the longest path that exists is taken, commas included."""
    pieces, out = text.split(","), []
    while pieces:
        name, equals, _ = pieces[0].partition("=")
        paths = {n: ",".join(pieces[:n])[len(name) + 1:] for n in range(len(pieces), 1, -1)} if equals else {}
        n = next((n for n, path in paths.items() if Path(path.strip()).exists()), 1)
        out.append(",".join(pieces[:n]).strip())
        pieces = pieces[n:]
    return out


def parse_modalities(text: str) -> tuple[str, ...]:
    """`a,v,av` in the order of MODALITIES. Raises AvsrError."""
    asked = {part.strip() for part in text.split(",")}
    if strange := sorted(asked - set(MODALITIES)):
        raise AvsrError(f"modality {strange[0]!r}: not known.  Use a (sound), v (lips), av (both) and none (neither).")
    return tuple(one for one in MODALITIES if one in asked)


def conditions(noises: Sequence[str], snrs: Sequence[float | None], corruptions: Sequence[Corruption],
               corrupt_snrs: Sequence[float | None], modalities: Sequence[str]) -> list[Heard]:
    """All that is to be measured of a model. Lips alone know no noise, sound alone no picture: each is measured once.

    Bad pictures are shown clean and in noise at `corrupt_snrs`, where sound alone is measured too, to compare.
    """
    levels = (*snrs, *(corrupt_snrs if corruptions else ()))
    clean = [(one, None) for one in MODALITIES if one in ("none", "v") or None in levels]
    clean += [(one, bad) for bad in corruptions for one in ("v", "av") if one == "v" or None in corrupt_snrs]
    out = [Heard(None, None, tuple(clean))]
    for noise in noises:
        for snr in dict.fromkeys(snr for snr in levels if snr is not None):
            bad = corruptions if snr in corrupt_snrs else ()
            out.append(Heard(noise, snr, (("a", None), ("av", None), *(("av", one) for one in bad))))
    kept = [replace(one, tasks=tuple(task for task in one.tasks if task[0] in modalities)) for one in out]
    return [one for one in kept if one.tasks]


def noise_config(asked: str | Path | None) -> Path | None:
    """The file that says what noises are: the one asked for; None, or `none`, for what is built in alone. Raises AvsrError."""
    if asked is None or asked == "none":
        return None
    if not Path(asked).is_file():
        raise AvsrError(f"{asked}: no such file.  Name a noise.toml; experiments/noise_grid/noise.toml shows one.")
    return Path(asked)


def speech_facts(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of an utterance that groups can be made of: all but the trainer's own."""
    return {name: value for name, value in labels.items() if name != "trust"}
