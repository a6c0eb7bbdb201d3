"""Noise sources from a plain description, and a mixer that draws one of them at a random level: for training.

    {"natural": "esc10/*/[1-4]-*.ogg", "white": true}  ->  sources by name;  NoiseMixer(sources)(speech, speaker, rng)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avsr.errors import AvsrError
from avsr.noise.mixing import mix
from avsr.noise.sources import Babble, Coloured, NoiseSource, Recordings, SpeechShaped

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".mp4", ".mkv", ".mpg", ".mov", ".avi", ".webm"}
COLOURS = {"white": 0.0, "pink": 1.0, "brown": 2.0}
KINDS = ("files", "talkers", "shaped", "colour")


def open_sources(config: Mapping[str, object], *, base: Path | str = ".") -> dict[str, NoiseSource]:
    """Sources by name from a plain description, as TOML holds it; paths are relative to `base`.

        natural = "noise/esc10/*/[1-4]-*.ogg"                          a folder or a pattern, or a list of them
        babble = {talkers = "lombard", exclude = "s3[89]", n_talkers = [4, 8]}     a folder with one folder a talker
        rival = {talkers = "lombard/s3[0-4]", n_talkers = 1, prefix = "lombard-"}  prefix: of the talkers' names
        ssn = {shaped = "grid/s1"}
        white = true                                                   or pink, brown; or {colour = 1.5}
    `exclude` drops files and folders whose name matches one of its patterns. False leaves a source out. Raises AvsrError.
    """
    return {name: _open(name, value, Path(base)) for name, value in config.items() if value is not False}


def _open(name: str, value: object, base: Path) -> NoiseSource:
    if value is True:
        if name not in COLOURS:
            raise AvsrError(f"noise '{name}' = true: only {', '.join(COLOURS)} need no more.  Name a folder of files.")
        return Coloured(COLOURS[name])
    if not isinstance(value, str | Path | list | tuple | Mapping):
        raise AvsrError(f"noise '{name}' = {value!r}: this names no files.  Give a folder, a pattern, or a list of them.")
    options = dict(value) if isinstance(value, Mapping) else {"files": value}
    kinds = [kind for kind in KINDS if kind in options]
    allowed = {"exclude", *kinds, *(("n_talkers", "prefix") if "talkers" in options else ())}
    if len(kinds) != 1 or set(options) - allowed:
        raise AvsrError(f"noise '{name}': it has {', '.join(map(repr, options)) or 'nothing'}.  Give one of "
                        f"{', '.join(KINDS)}, with exclude, and for talkers n_talkers and prefix.")
    if kinds == ["colour"]:
        return Coloured(float(options["colour"]))
    exclude = _list(options.get("exclude", ()))
    if kinds == ["talkers"]:
        n = options.get("n_talkers", (4, 8))
        folders = _talkers(_matches(name, options["talkers"], exclude, base), exclude)
        talkers = {options.get("prefix", "") + folder.name: _files(name, folder, exclude, base) for folder in folders}
        return Babble(talkers, n if isinstance(n, int) else tuple(n))
    return {"files": Recordings, "shaped": SpeechShaped}[kinds[0]](_files(name, options[kinds[0]], exclude, base))


def _list(value: object) -> list[str]:
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]


def _matches(name: str, patterns: object, exclude: Sequence[str], base: Path) -> list[Path]:
    """Paths that match, sorted, those of each pattern checked to be some."""
    found: set[Path] = set()
    for pattern in _list(patterns):
        whole = base / pattern
        paths = [whole] if whole.exists() else [Path(one) for one in glob(str(whole), recursive=True)]
        paths = [path for path in paths if not any(fnmatch(path.name, one) for one in exclude)]
        if not paths:
            raise AvsrError(f"noise '{name}': {whole} matches 0 files or folders.  Check the path, relative to {base}.")
        found.update(paths)
    return sorted(found)


def _talkers(paths: Sequence[Path], exclude: Sequence[str]) -> list[Path]:
    """The folders among `paths`, or where a folder holds folders, those."""
    inside = {path: [one for one in sorted(path.iterdir()) if one.is_dir()] for path in paths if path.is_dir()}
    folders = [one for path, subfolders in inside.items() for one in subfolders or [path]]
    return [folder for folder in folders if not any(fnmatch(folder.name, one) for one in exclude)]


def _files(name: str, patterns: object, exclude: Sequence[str], base: Path) -> list[Path]:
    """Recordings that match, and those anywhere in folders that match."""
    inside = [file for path in _matches(name, patterns, exclude, base)
              for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in inside if file.suffix.lower() in SUFFIXES and not any(fnmatch(file.name, one) for one in exclude)]
    if not files:
        raise AvsrError(f"noise '{name}': {patterns} holds 0 recordings.  Known endings: {' '.join(sorted(SUFFIXES))}.")
    return files


class Noisy(NamedTuple):
    """audio (S,) float32; the name of the noise and the SNR achieved, both None where it stayed clean."""

    audio: np.ndarray
    source: str | None
    snr_db: float | None


@dataclass(frozen=True)
class NoiseMixer:
    """Noise of a random kind at a random level: for training.

    sources: by name, drawn in proportion to `weights` (all alike without).  snrs: dB to choose from, None for clean.
    snr_range: lowest and highest dB, evenly in between; takes the place of snrs.  p_clean: chance of no noise at all.
    """

    sources: Mapping[str, NoiseSource]
    snrs: tuple[float | None, ...] = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, None)
    snr_range: tuple[float, float] | None = None
    p_clean: float = 0.0
    weights: Mapping[str, float] | None = None
    level: str = "active"

    def __post_init__(self) -> None:
        if self.weights is not None and set(self.weights) != set(self.sources):
            raise AvsrError(f"noise weights name {sorted(self.weights)}, the sources are {sorted(self.sources)}.  "
                            "Give one weight for each source.")

    def __call__(self, speech: np.ndarray, speaker: str | None, rng: np.random.Generator) -> Noisy:
        """Speech (S,) float32 in noise in which `speaker` is not heard. Silent speech, which has no SNR, stays as it is."""
        snr_db = self._snr(rng)
        if snr_db is None or not self.sources or not np.any(speech):
            return Noisy(np.array(speech, np.float32), None, None)
        names = sorted(self.sources)
        weights = np.array([1.0 if self.weights is None else self.weights[name] for name in names])
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        noise = self.sources[name].draw(len(speech), rng, without=speaker)
        mixed = mix(speech, noise, snr_db, rng=rng, level=self.level)
        return Noisy(mixed.audio, name, mixed.snr_db)

    def _snr(self, rng: np.random.Generator) -> float | None:
        if rng.random() < self.p_clean:
            return None
        if self.snr_range is not None:
            return float(rng.uniform(*self.snr_range))
        return self.snrs[int(rng.integers(len(self.snrs)))]
