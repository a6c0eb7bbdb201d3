"""A noise manifest: a file that says which noise each utterance of a test set gets, the same for everybody.

    utterances (id, speaker, sound) x noise families  ->  noise.jsonl  ->  mix(id, family, snr_db, speech)  ->  MixedSpeech
The noise of an utterance depends on its id and the family's name alone: it is the same in every run and at every level. The
sha256 of every recording, the level of the noise, and the SNR achieved, measured on the noise that was added, are checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsr.errors import AvsrError, BadManifest, BadMedia
from avsr.noise import lines
from avsr.noise.mixing import LEVELS, MixedSpeech, known_level, rms_level, scaled
from avsr.noise.plans import Recorded, Sound, render
from avsr.noise.sources import DrawableAudio, NoiseSource, RecordingCache, SpeechShaped
from avsr.output import write_file
from avsr.runtime import Progress, no_progress

TOLERANCE_DB = 0.1                    # largest difference of the SNR achieved from the SNR asked for
RENDER_DB = 0.01                      # largest change of the noise level since it was drawn: decoders round


@dataclass(frozen=True)
class TargetSpeech:
    """An utterance that gets noise. audio: (S,) float32, SAMPLE_RATE, or a function that returns it; None if silent."""

    id: str
    speaker: str | None
    audio: np.ndarray | Callable[[], np.ndarray | None] | None

    def samples(self) -> np.ndarray:
        """(S,) float32."""
        audio = self.audio() if callable(self.audio) else self.audio
        return np.zeros(0, np.float32) if audio is None else np.asarray(audio, np.float32)


def _whole(audio: np.ndarray) -> DrawableAudio:
    """All of a recording, to draw from."""
    return DrawableAudio(audio, ((0, len(audio)),))


class _VerifiedRecordings:
    """The recordings that rows name; each is found, and its sha256 checked, once."""

    def __init__(self, manifest: Path, families: Mapping[str, NoiseSource]):
        self._manifest = manifest
        self._base = Path(os.path.realpath(manifest.parent))  # `..` in names is relative to the real folder, not to a link
        self._digests: dict[Sound, str] = {}
        self._files: dict[tuple[str, str], Path] = {}        # by relative path and sha256, as in rows
        self._cache = RecordingCache(_whole)
        self._recorded: dict[str, Recorded] = {}
        self._named: dict[str, list[Path]] = {}              # files by name
        for sound in (sound for source in families.values() for sound in source.recordings()):
            if isinstance(sound, Recorded):
                self._recorded[sound.name] = sound
            elif not isinstance(sound, np.ndarray):
                self._named.setdefault(Path(sound).name, []).append(Path(sound))

    def audio(self, sound: Sound) -> np.ndarray:
        """(S,) float32."""
        return self._cache.audio(sound)

    def place(self, sound: Sound) -> lines.JsonRow:
        """The name of a recording in a row: relative to the manifest, so that both can be moved together."""
        if isinstance(sound, Recorded):
            return {"recording": sound.name, "sha256": self._digest(sound)}
        if isinstance(sound, np.ndarray):
            raise AvsrError("noise: a waveform has no name for a manifest.  Give it one, as Recorded(name, read).")
        path = os.path.abspath(sound)
        with suppress(ValueError):                           # another drive of Windows
            path = os.path.relpath(path, self._base)
        return {"file": Path(path).as_posix(), "sha256": self._digest(Path(os.path.realpath(sound)))}

    def find(self, cut: lines.JsonRow) -> Sound:
        """The recording of a cut. Raises BadManifest where it is missing or has changed."""
        if "recording" in cut:
            return self._find_recorded(cut["recording"], cut["sha256"])
        key = cut["file"], cut["sha256"]
        if key not in self._files:
            self._files[key] = self._find_file(*key)
        return self._files[key]

    def _find_file(self, name: str, sha256: str) -> Path:
        path = Path(os.path.normpath(self._base / name))     # the base may not exist yet
        there = [Path(os.path.realpath(one)) for one in (path, *self._named.get(path.name, ())) if one.is_file()]
        for one in there:                                    # the same recording may have moved
            if self._digest(one) == sha256:
                return one
        if not there:
            raise BadManifest(f"{path}: no such file, and noise of {self._manifest} is cut from it.  Put it back, or name the "
                              "folder that holds it now (--noise NAME=FOLDER).")
        raise BadManifest(f"{path}: it has changed: its sha256 begins {self._digest(there[0])[:12]}, {self._manifest} wants "
                          f"{sha256[:12]}.  Put the old file back, or choose another output folder.")

    def _find_recorded(self, name: str, sha256: str) -> Recorded:
        if name not in self._recorded:
            raise BadManifest(f"{self._manifest}: noise is cut from {name}, which is not among the recordings given.  Open it "
                              "with the corpus and the noise families that it was drawn from.")
        if self._digest(self._recorded[name]) != sha256:
            raise BadManifest(f"{name}: its sound has changed since {self._manifest} was written (sha256 of its samples begins "
                              f"{self._digest(self._recorded[name])[:12]}, wanted {sha256[:12]}).  Use the corpus as it was, "
                              "or choose another output folder.")
        return self._recorded[name]

    def _digest(self, sound: Path | Recorded) -> str:
        """The sha256 of a file's bytes, or of a Recorded's samples; computed once."""
        if sound not in self._digests:
            self._digests[sound] = (_sha256(self.audio(sound)) if isinstance(sound, Recorded) else _file_sha256(sound))
        return self._digests[sound]


class NoiseManifest:
    """The noise of utterances, and mixing it with their speech. Use `open` to make one."""

    def __init__(self, path: Path, found: lines.Lines, families: Mapping[str, NoiseSource]):
        self.path, self.header, self.families = path, found.header, found.families
        self._found, self._recordings = found, _VerifiedRecordings(path, families)
        self._levels: dict[str, tuple[float, float]] = {}    # of speech by its sha256: as asked for, and by RMS
        self._lock = threading.RLock()                       # several threads mix and share the recordings

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path | str, families: Mapping[str, NoiseSource], utterances: Iterable[TargetSpeech], *,
             level: str = "active", progress: Progress = no_progress) -> NoiseManifest:
        """Read a manifest if it exists, check it, add missing rows, and write it completely or not at all.

        Existing rows never change. level: how speech is measured, "active" (ITU-T P.56) or "rms". Raises BadManifest where a
        recording has changed or is missing, or a family was drawn from other recordings; BadOutput.
        """
        path, spoken = Path(path), list(utterances)
        if len({one.id for one in spoken}) < len(spoken):
            raise BadManifest(f"{path}: two of {len(spoken)} utterances have one id.  Ids must be unique: rename one.")
        there = lines.read_lines(path)
        found = lines.fresh(level) if there is None else there
        if found.header["level"] != level:
            raise BadManifest(f"{path}: its level is {found.header['level']!r}, and {level!r} is asked for.  Use "
                              f"--level {found.header['level']}, or choose another output folder.")
        manifest = cls(path, found, families)
        before = len(found.text)
        for name, source in families.items():
            manifest._add_family(name, source)
        wanted = [(name, one.id) for name in families for one in spoken]
        manifest._check([pair for pair in wanted if pair in found.lines])
        missing = [one for one in spoken if any((name, one.id) not in found.lines for name in families)]
        for number, one in enumerate(missing):
            progress("drawing noise", number, len(missing), "utterances")
            manifest._add(one, {name: source for name, source in families.items() if (name, one.id) not in found.lines})
        if missing:
            progress("drawing noise", len(missing), len(missing), "utterances")
        if there is None or found.cut_off or len(found.text) > before:
            write_file(path, "".join(found.text).encode(), remedy="Choose another output folder.")
        return manifest

    @property
    def silent(self) -> tuple[str, ...]:
        """Ids whose speech is silent, so that they have no SNR, in the order of the file."""
        return tuple(self._found.silent)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        """Whether there is a row of (id, family)."""
        return (pair[1], pair[0]) in self._found.lines

    def __len__(self) -> int:
        return len(self._found.lines)

    def row(self, utterance: str, family: str) -> lines.JsonRow:
        """The row of an utterance in a noise family."""
        if (utterance, family) not in self:
            raise BadManifest(f"{self.path}: no row of {utterance} in {family} among {len(self)}.  Open it with that utterance "
                              "and family, so that they are added.")
        return json.loads(self._found.lines[family, utterance])

    def noise(self, utterance: str, family: str) -> np.ndarray:
        """(S,) float32 as drawn, at no particular level. Raises BadManifest where its level has changed."""
        row = self.row(utterance, family)
        with self._lock:
            noise = self._render(row)
        level = rms_level(noise)
        if row["gain"] is not None and not abs(level - row["noise_rms_db"]) <= RENDER_DB:
            raise BadManifest(f"{self.path}: {utterance} in {family}: the noise has {level:.3f} dB here and had "
                              f"{row['noise_rms_db']:.3f} dB when it was drawn, so a decoder or generator differs.  Use the "
                              f"versions in its first line, or choose another output folder.")
        return noise

    def mix(self, utterance: str, family: str, snr_db: float | None, speech: np.ndarray | None) -> MixedSpeech:
        """Mix the speech (S,) float32 of an utterance (None: silent) with its noise at `snr_db`; None adds no noise. Raises
        BadMedia where it is silent, BadManifest for other speech, AvsrError where the SNR is off by more than 0.1 dB."""
        speech = TargetSpeech(utterance, None, speech).samples()
        if snr_db is None:
            return MixedSpeech(speech.copy(), None, None, 0.0)
        row = self.row(utterance, family)
        sha256 = _sha256(speech)
        if sha256 != row["speech_sha256"]:
            raise BadManifest(f"{utterance}: this is not the speech that {self.path} was written for: {len(speech)} samples, "
                              f"sha256 begins {sha256[:12]}; wanted {row['n_samples']} and {row['speech_sha256'][:12]}.  "
                              "Use the corpus as it was prepared then, or choose another output folder.")
        if sha256 not in self._levels:                       # P.56 takes 4 ms, and there are many SNRs
            level = known_level(utterance, LEVELS[self.header["level"]](speech), speech)
            self._levels[sha256] = level, rms_level(speech)
        speech_level, speech_rms = self._levels[sha256]
        if not abs(snr_db) <= 200:                           # float32 ends at 770 dB, float64 at 6,000
            raise AvsrError(f"{utterance}: an SNR of {snr_db:g} dB is asked for.  Ask for -200 to 200 dB.")
        gain = row["gain"] * 10 ** (-snr_db / 20)
        audio = speech + scaled(self.noise(utterance, family), gain)
        added = rms_level(audio.astype(np.float64) - speech)
        if not abs(speech_level - added - snr_db) <= TOLERANCE_DB:
            raise AvsrError(f"{utterance} in {family}: an SNR of {snr_db:g} dB was asked for and {speech_level - added:.3f} dB "
                            f"achieved, more than {TOLERANCE_DB} dB off.  Ask for a ratio that 32-bit sound can hold, or draw "
                            f"the noise anew: delete {self.path}.")
        stream = row["streams"][0]
        offset = None if isinstance(stream, dict) else stream[0]["offset"]
        return MixedSpeech(audio, speech_level - added, offset, gain, speech_rms - added, row["noise_id"])

    def _add_family(self, name: str, source: NoiseSource) -> None:
        """Add the row of a family, or check that an existing row describes the same family."""
        described = json.loads(lines.line(source.describe()))
        if name not in self.families:
            power = {"power": list(source.power)} if isinstance(source, SpeechShaped) else {}
            self._found.add({"family": name, **described, **power})
            return
        there = {key: value for key, value in self.families[name].items() if key not in ("family", "power")}
        if there != described:
            differ = [key for key in sorted({*there, *described}) if there.get(key) != described.get(key)]
            raise BadManifest(f"{self.path}: noise '{name}' was drawn from something else than is given now (by "
                              f"{', '.join(differ)}).  Give this noise another name, or choose another output folder.")

    def _check(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Check the files of these rows; a Recorded is checked when it is read."""
        for noise, utterance in pairs:
            for stream in self.row(utterance, noise)["streams"]:
                for cut in (() if isinstance(stream, dict) else stream):
                    if "file" in cut:
                        self._recordings.find(cut)

    def _add(self, spoken: TargetSpeech, families: Mapping[str, NoiseSource]) -> None:
        speech = spoken.samples()
        levels = {kind: measure(speech) for kind, measure in LEVELS.items()}
        for name, source in families.items():
            seed = lines.noise_seed(name, spoken.id)
            row = dict.fromkeys(lines.FIELDS[:-1]) | {
                "id": spoken.id, "speaker": spoken.speaker, "noise": name, "seed": seed, "n_samples": len(speech),
                "speech_sha256": _sha256(speech), "talkers": [], "streams": []}
            if levels["rms"] != -math.inf:
                level = known_level(spoken.id, levels[self.header["level"]], speech)
                plan = source.plan(len(speech), np.random.default_rng(seed), without=spoken.speaker)
                row |= {"talkers": list(plan.talkers), "streams": lines.described_streams(plan, self._recordings.place),
                        "speech_db": round(levels["active"], 6), "speech_rms_db": round(levels["rms"], 6)}
                noise = self._render(row)
                noise_level = known_level(f"{name} of {spoken.id}", rms_level(noise), noise)
                # Rounded, so that the last bit on another machine does not change the row.
                row |= {"noise_rms_db": round(noise_level, 6), "gain": float(f"{10 ** ((level - noise_level) / 20):.9g}")}
            self._found.add({**row, "noise_id": lines.noise_id(row)})

    def _render(self, row: lines.JsonRow) -> np.ndarray:
        plan = lines.parsed_plan(row, self.families.get(row["noise"], {}), self._recordings.find)
        for cut in (cut for stream in plan.streams if isinstance(stream, tuple) for cut in stream):
            if cut.offset + cut.length > (n := len(self._recordings.audio(cut.sound))):
                raise BadManifest(f"{cut.sound}: {n} samples come out of it here, and {self.path} cuts to sample "
                                  f"{cut.offset + cut.length}, so a decoder differs.  Choose another output folder.")
        return render(plan, self._recordings.audio)


def _sha256(audio: np.ndarray) -> str:
    """The sha256 of samples as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(audio, "<f4").tobytes()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadMedia(f"{path}: cannot be read ({error.strerror or error}).  Take it out of the noise folder.") from error
