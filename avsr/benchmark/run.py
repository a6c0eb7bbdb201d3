"""The run: a test set, conditions and subjects in, rows on disk in the order of the plan out; taken up again after any stop.

    Settings -> utterances, noise manifest -> batches side by side -> results.jsonl
Batches are the same in every run, whatever is there already, so that an answer never depends on what was asked before.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avsr import __version__, noise
from avsr.benchmark.against import open_rival
from avsr.benchmark.conditions import Heard, conditions, noise_config, speech_facts
from avsr.benchmark.keepsakes import keep
from avsr.benchmark.mixes import Mix, write_mixes
from avsr.benchmark.outside import read_predictions
from avsr.benchmark.settings import Settings
from avsr.benchmark.subjects import Other, Own, Question, Subject, own_threads
from avsr.cache import Cached, read_entry, read_mouth_crop
from avsr.corrupt import Corruption, corrupt
from avsr.dataset import ManifestRow, read_prepared, recordings_by_speaker, sound_of
from avsr.decode import DecodeOptions
from avsr.errors import AvsrError, BadManifest, counted
from avsr.manifest import manifest_path
from avsr.modality import GOES_BY
from avsr.output import locked, write_file
from avsr.rates import SAMPLE_RATE, SEGMENT_SECONDS
from avsr.results import NOISE, RUN, TIMINGS, Key, ResultRow, Results, append, json_line
from avsr.runtime import Progress, n_cores, no_progress
from avsr.text import NORMALISER

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How this call goes about it, which does not change what is measured. command: as it was typed, for run.json."""

    command: str = ""
    progress: Progress = no_progress
    say: Say = lambda line: None


@dataclass
class Benchmarked:
    """What a run left: rows in the folder, new ones of this call, and what could not be measured, with the reason."""

    folder: Path
    n_rows: int = 0
    n_new: int = 0
    n_cut: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Unit:
    """A batch of utterances in one way to hear them: what one thread does at a time."""

    heard: Heard
    rows: Sequence[ManifestRow]


def benchmark(manifest: str | Path, output: str | Path, settings: Settings | None = None, *, outside: Sequence[Path] = (),
              save_audio: Path | None = None, options: Options = Options()) -> Benchmarked:
    """Measure what `settings` say on the split of a prepared manifest (file or folder), into `output`.

    outside: files of what other systems wrote, whose rows join ours.  save_audio: a folder for every mix, as WAV files.
    Raises AvsrError and its kinds. What cannot be measured is in `skipped`, and in run.json.
    """
    folders = {os.path.realpath(folder): Path(folder) for folder in (output, save_audio) if folder is not None}
    with ExitStack() as stack:
        for folder in folders.values():
            stack.enter_context(locked(folder, "avsr benchmark"))
        run = _Run(Path(manifest), Path(output), settings or Settings(), options)
        if save_audio is not None:
            to_mix = run.to_mix()
            write_mixes(save_audio, run.mixes(to_mix), len(to_mix), options.progress)
        for path in outside:
            run.take_in(path)
        for open_subject in run.subjects():
            subject = open_subject()
            run.measure(subject)
            del subject                                     # before the next one is loaded
        return run.finish()


class _Run:
    """One call of `benchmark`."""

    def __init__(self, manifest: Path, output: Path, settings: Settings, options: Options):
        self.path = manifest_path(manifest)
        self.settings, self.progress, self.say, self.command = settings, options.progress, options.say, options.command
        self.noise_config = noise_config(settings.noise_config)
        self.results, self.done = Results(output), Benchmarked(output)
        self.done.n_cut = self.results.n_cut
        self.everyone, left_out = read_prepared([self.path], settings.split, SEGMENT_SECONDS)
        self.done.skipped += [tuple(line.split(": ", 1)) for line in left_out]
        self.rows = self._utterances()
        if settings.noises is None and self.noise_config is not None:
            raise AvsrError(f"{self.noise_config}: no noise is named, so this file would not be used.  Name some with --noise.")
        if settings.noises is None:
            self.settings = replace(settings, noises=self._usual_noise())
        self.noises = self._noise(output)
        self.systems: dict[str, dict[str, Any]] = {}

    # --- what is measured on what ---

    def _utterances(self) -> list[ManifestRow]:
        """The utterances of the split, shortest first, so that a batch holds like lengths."""
        rows = self.everyone
        if (limit := self.settings.limit) is not None and limit < len(rows):
            rows = [rows[i * len(rows) // limit] for i in range(limit)]
        deaf = [row for row in rows if "a" not in row.utterance.cache.modality]
        self.done.skipped += [(row.utterance.id, "its cache holds no sound") for row in deaf]
        rows = [row for row in rows if "a" in row.utterance.cache.modality]
        if not rows:
            raise BadManifest(f"{self.path}: none of the {len(deaf)} utterances of split {self.settings.split!r} has sound.  "
                              "Prepare them with --modality av.")
        seen = {row.utterance.speaker or row.utterance.id for row in rows if "v" in row.utterance.cache.modality}
        if len(seen) < 2 and any(corruption.name == "face" for corruption in self.settings.corruptions):
            raise AvsrError(f"{self.path}: {counted(len(rows), 'utterance')} of {counted(len(seen), 'speaker')} to be "
                            "measured, and another's face asked for.  Leave out --corrupt face, or measure more speakers.")
        return sorted(rows, key=lambda row: (row.n_frames, row.utterance.id))

    def _usual_noise(self) -> tuple[str, ...]:
        """The noise that is measured where none was named: babble of the test's own speakers, or what they can make."""
        why = noise.why_not_own("babble", *recordings_by_speaker(self.everyone))
        if why is None:
            return ("babble",)
        self.say(f"The noise is speech-shaped, because babble cannot be made: {why}.  Name a folder of other people's speech "
                 "(--noise babble=FOLDER) to have babble.")
        return ("speech-shaped",)

    def _noise(self, output: Path) -> noise.NoiseManifest | None:
        """The noise of every utterance in every family, from the noise manifest, which is made where it is not there.

        The corpus's own talkers are those of the whole split, whatever the limit: a noise must not depend on that.
        """
        if not self.settings.noises:
            return None
        own, _ = recordings_by_speaker(self.everyone)
        families = noise.open_families(self.settings.noises, config=self.noise_config, given=self.settings.given, own=own)
        spoken = [noise.Spoken(row.utterance.id, row.utterance.speaker, partial(sound_of, row)) for row in self.rows]
        path = output / NOISE if self.settings.noise_manifest is None else Path(self.settings.noise_manifest)
        made = noise.NoiseManifest.open(path, families, spoken, level=self.settings.level, progress=self.progress)
        self.done.skipped += [(one, "its speech is silent, so it has no SNR: measured clean only") for one in made.silent]
        return made

    def subjects(self) -> Iterator[Callable[[], Subject]]:
        """Each loaded only when its turn comes."""
        asked = self.settings
        for name in asked.models:
            yield partial(Own, name, beam_size=asked.beam_size, device=asked.device, modalities=asked.modalities,
                          progress=self.progress)
        for name in asked.against if "a" in asked.modalities else ():
            size = asked.beam_size or DecodeOptions().beam_size
            yield lambda name=name, size=size: Other(open_rival(name, device=asked.device, beam_size=size))

    def _units(self, subject: Subject) -> list[_Unit]:
        asked = self.settings
        plan = conditions(asked.noises, asked.snrs, asked.corruptions, asked.corrupt_snrs, subject.modalities)
        units = []
        for heard in plan:
            silent = set() if heard.noise is None else set(self.noises.silent)
            rows = [row for row in self.rows if row.utterance.id not in silent]
            units += [_Unit(heard, rows[i:i + asked.batch_size]) for i in range(0, len(rows), asked.batch_size)]
        return units

    def to_mix(self) -> list[tuple[Heard, ManifestRow]]:
        """Every sound that anybody is asked about, once."""
        asked = self.settings
        plan = conditions(asked.noises, asked.snrs, asked.corruptions, asked.corrupt_snrs, ("a",))
        return [(heard, row) for heard in plan for row in self.rows
                if heard.noise is None or row.utterance.id not in self.noises.silent]

    def mixes(self, to_mix: Iterable[tuple[Heard, ManifestRow]]) -> Iterator[Mix]:
        """The sounds that `to_mix` lists, each made when it is asked for."""
        for heard, row in to_mix:
            audio, facts = self._mixed(row, sound_of(row), heard)
            yield Mix(row.utterance, heard.noise, heard.snr_db, audio, facts)

    def take_in(self, path: Path) -> None:
        """Rows of what another system wrote."""
        rows = read_predictions(path, [row.utterance for row in self.rows], split=self.settings.split,
                                silent=() if self.noises is None else self.noises.silent)
        for row in rows:
            self.results.check_same(row)
        new = [row for row in rows if row.key not in self.results]
        self.results.add(new)
        self.done.n_new += len(new)

    # --- measuring ---

    def measure(self, subject: Subject) -> None:
        """Every row of a subject that is not there yet."""
        self.results.check({"system": subject.name, "split": self.settings.split, "normaliser": NORMALISER, **subject.facts})
        self.systems[subject.name] = {**subject.facts, "device": subject.device, **subject.about}
        if isinstance(subject, Own):
            self._compare(subject)
        units = self._units(subject)
        todo = [unit for unit in units if any(key not in self.results for key in _keys(subject, unit))]
        total = sum(len(unit.rows) * len(unit.heard.tasks) for unit in units)
        count = total - sum(len(unit.rows) * len(unit.heard.tasks) for unit in todo)
        self.progress(f"measuring {subject.name}", count, total, "rows")
        with own_threads(max(1, n_cores() // subject.workers)), ThreadPoolExecutor(subject.workers) as pool:
            for unit, (rows, timings) in _in_order(pool, partial(self._answer, subject), todo, subject.workers):
                new = [row for row in rows if row.key not in self.results]
                self.results.add(new)
                append(self.done.folder / TIMINGS, map(json_line, timings))
                self.done.n_new += len(new)
                count += len(unit.rows) * len(unit.heard.tasks)
                self.progress(f"measuring {subject.name}", count, total, "rows")

    def _compare(self, subject: Own) -> None:
        """What a model is able to do with what it is to be asked by. Raises BadManifest where its mouths are cut otherwise."""
        missing = set(self.settings.modalities) - set(subject.modalities) - {"none"}
        if missing:
            able = " or ".join(GOES_BY[one] for one in subject.checkpoint.modalities)
            self.say(f"{subject.name}: goes by {able}, so not measured by {', '.join(sorted(missing))}.")
        if any("v" in one for one in subject.modalities):
            read_mouth_crop(self.path.parent, subject.checkpoint.mouth_crop)

    def _answer(self, subject: Subject, unit: _Unit) -> tuple[list[ResultRow], list[dict]]:
        """The rows of a unit and what they took. Runs in a thread."""
        heard = unit.heard
        cached = [read_entry(row.base, row.utterance.cache) for row in unit.rows]
        mixed = [self._mixed(row, one.audio, heard) for row, one in zip(unit.rows, cached, strict=True)]
        shown = [[self._shown(row, one, corruption) for row, one in zip(unit.rows, cached, strict=True)]
                 for _, corruption in heard.tasks]
        questions = [Question(modality, [self._worth(mouth) for mouth, _ in mouths])
                     for (modality, _), mouths in zip(heard.tasks, shown, strict=True)]
        answers = subject.answer([audio for audio, _ in mixed], [row.utterance.text for row in unit.rows], questions)
        rows = []
        for task, mouths, answer in zip(heard.tasks, shown, answers, strict=True):
            for row, (audio, facts), (_, face), found in zip(unit.rows, mixed, mouths, answer.rows, strict=True):
                rows.append(ResultRow(
                    **_key(subject, heard, task, row)._asdict(), **subject.facts, **facts, **found, face=face,
                    speaker=row.utterance.speaker, split=self.settings.split, labels=speech_facts(row.utterance.labels),
                    reference=row.utterance.text, duration_s=round(len(audio) / SAMPLE_RATE, 3)))
        return rows, self._timings(subject, unit, answers, sum(len(audio) for audio, _ in mixed))

    def _mixed(self, row: ManifestRow, speech: np.ndarray, heard: Heard) -> tuple[np.ndarray, dict[str, Any]]:
        """What is heard, and what its rows tell of the noise in it."""
        if heard.noise is None:
            return speech, {}
        made = self.noises.mix(row.utterance.id, heard.noise, heard.snr_db, speech)
        return made.audio, {"snr_achieved": round(made.snr_db, 4), "snr_rms": round(made.snr_rms, 4),
                            "noise_id": made.noise_id, "noise_offset": made.offset}

    def _shown(self, row: ManifestRow, cached: Cached, corruption: Corruption | None) -> tuple[Cached | None, str | None]:
        """What is seen, None where no mouth was prepared, and of whom, where it is somebody else."""
        if cached.images is None or corruption is None:
            return (None if cached.images is None else cached), None
        rng, other, face = np.random.default_rng(corruption_seed(row.utterance.id, corruption)), None, None
        if corruption.name == "face":
            stranger = self._stranger(row, rng)
            found, face = read_entry(stranger.base, stranger.utterance.cache), stranger.utterance.id
            other = found.images, found.missing
        images, missing = corrupt(cached.images, cached.missing, corruption, rng, other)
        return replace(cached, images=images, missing=missing), face

    def _stranger(self, row: ManifestRow, rng: np.random.Generator) -> ManifestRow:
        others = [one for one in self.rows if one.utterance.speaker != row.utterance.speaker
                  and "v" in one.utterance.cache.modality]
        speakers = sorted({one.utterance.speaker or one.utterance.id for one in others})
        chosen = speakers[int(rng.integers(len(speakers)))]   # a speaker first, or the face would nearly always be the same
        of_them = [one for one in others if (one.utterance.speaker or one.utterance.id) == chosen]
        return of_them[int(rng.integers(len(of_them)))]

    def _worth(self, mouth: Cached | None) -> Cached | None:
        """The mouth, None where too few frames show a face. `transcribe` also leaves out one that does not move; here it is
        shown, so that rows stay comparable with those of earlier runs."""
        if mouth is None or not len(mouth.missing) or mouth.missing.mean() > self.settings.max_missing:
            return None
        return mouth

    def _timings(self, subject: Subject, unit: _Unit, answers: Sequence, n_samples: int) -> list[dict]:
        peak = (torch.cuda.max_memory_allocated() if subject.device == "cuda"
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return [{"system": subject.name, "modality": modality, "noise": unit.heard.noise, "snr_db": unit.heard.snr_db,
                 "corruption": bad and bad.name, "amount": bad and bad.amount, "clips": len(unit.rows),
                 "audio_s": round(n_samples / SAMPLE_RATE, 3), "seconds": round(answer.seconds, 6),
                 "peak_mb": round(peak / 1e6), "device": subject.device, "first": unit.rows[0].utterance.id}
                for (modality, bad), answer in zip(unit.heard.tasks, answers, strict=True)]

    def finish(self) -> Benchmarked:
        """Rows in order, and what was done written down."""
        self.results.sort()
        keep(self.done.folder, self.results.by_key.values(), {row.utterance.id: row for row in self.rows})
        self.done.n_rows = len(self.results)
        facts = {"command": self.command, "avsr": __version__, "python": platform.python_version(),
                 "torch": torch.__version__.partition("+")[0], "cores": n_cores(), "normaliser": NORMALISER,
                 "systems": self.systems,
                 "settings": {**asdict(self.settings), "corruptions": list(map(str, self.settings.corruptions))},
                 "skipped": [{"id": one, "reason": reason} for one, reason in self.done.skipped]}
        write_file(self.done.folder / RUN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        return self.done


def _key(subject: Subject, heard: Heard, task: tuple[str, Corruption | None], row: ManifestRow) -> Key:
    modality, corruption = task
    return Key(subject.name, modality, heard.noise, heard.snr_db, corruption and corruption.name,
               corruption and corruption.amount, row.utterance.id)


def _keys(subject: Subject, unit: _Unit) -> Iterator[Key]:
    """The keys of a unit's rows."""
    return (_key(subject, unit.heard, task, row) for task in unit.heard.tasks for row in unit.rows)


def corruption_seed(utterance: str, corruption: Corruption) -> int:
    """The first 64 bits of the sha256 of the id, a NUL and the corruption, so that every machine draws the same."""
    return int.from_bytes(hashlib.sha256(f"{utterance}\0{corruption}".encode()).digest()[:8], "big")


def _in_order(pool: ThreadPoolExecutor, work: Callable, units: Sequence[_Unit], n_ahead: int) -> Iterator[tuple[_Unit, Any]]:
    """Each unit with what came of it, in order; a few are worked on ahead."""
    running: deque[tuple[_Unit, Future]] = deque()
    waiting = iter(units)
    try:
        while True:
            while len(running) < 2 * n_ahead and (unit := next(waiting, None)) is not None:
                running.append((unit, pool.submit(work, unit)))
            if not running:
                return
            unit, future = running.popleft()
            yield unit, future.result()
    finally:
        for _, future in running:
            future.cancel()
