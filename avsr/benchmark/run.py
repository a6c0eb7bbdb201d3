"""The run of a benchmark: a test set, conditions and systems in, rows on disk out; it can be continued after any stop.

    BenchmarkSettings -> utterances, noise manifest -> batches in parallel -> results.jsonl
Batches are the same in every run, whatever rows there are already, so that a result never depends on earlier runs.
"""

from __future__ import annotations

import json
import os
import platform
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from avsr import __version__, noise, workers
from avsr.benchmark.baselines import open_baseline
from avsr.benchmark.conditions import AudioCondition, BenchmarkSettings, conditions, noise_config
from avsr.benchmark.hmm import HMM_PREFIX, open_hmm
from avsr.benchmark.measuring import Batch, MeasureBatch, Measured, Measurer, keys_of, speaker_of
from avsr.benchmark.predictions import read_predictions
from avsr.benchmark.recordings import Mixture, write_mixtures, write_samples
from avsr.benchmark.systems import CheckpointSystem, System
from avsr.cache import read_mouth_crop
from avsr.dataset import ManifestRow, read_prepared, recordings_by_speaker, sound_of
from avsr.decode import DecodeOptions
from avsr.errors import AvsrError, BadManifest, counted
from avsr.manifest import manifest_path
from avsr.names import INPUT_MODALITIES, MODALITY_NAMES
from avsr.output import locked, write_file
from avsr.rates import SEGMENT_SECONDS
from avsr.results import NOISE, RUN, TIMINGS, ResultRow, Results, append, json_line
from avsr.runtime import Progress, n_cores, no_progress
from avsr.text import NORMALISERS, find_normaliser

Say = Callable[[str], None]


@dataclass(frozen=True)
class CallOptions:
    """What does not change the measurement. command: as typed, for run.json.  say: takes sentences for the user.  cluster: the
    Ray cluster that does the work, see workers.address; None for this process."""

    command: str = ""
    progress: Progress = no_progress
    say: Say = lambda line: None
    cluster: str | None = None


@dataclass
class Benchmarked:
    """What a run left: rows in the folder, new ones of this call, and what could not be measured, with the reason."""

    folder: Path
    n_rows: int = 0
    n_new: int = 0
    n_cut: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def benchmark(manifest: str | Path, output: str | Path, settings: BenchmarkSettings | None = None, *,
              predictions: Sequence[Path] = (), save_audio: Path | None = None,
              options: CallOptions = CallOptions()) -> Benchmarked:
    """Measure what `settings` say on the split of a prepared manifest (file or folder), into `output`.

    predictions: files of what other systems wrote.  save_audio: a folder for every mixture, as WAV.  Raises AvsrError.
    What cannot be measured is in `skipped`, and in run.json.
    """
    folders = {os.path.realpath(folder): Path(folder) for folder in (output, save_audio) if folder is not None}
    with ExitStack() as stack:
        for folder in folders.values():
            stack.enter_context(locked(folder, "avsr benchmark"))
        run = _BenchmarkRun(Path(manifest), Path(output), settings or BenchmarkSettings(), options)
        if save_audio is not None:
            run.save_mixtures(save_audio)
        for path in predictions:
            run.add_predictions(path)
        for open_system, open_elsewhere in zip(run.systems(options.progress), run.systems(no_progress), strict=True):
            system = open_system()
            run.measure(system, open_elsewhere)
            del system                                      # before the next one is loaded
        return run.finish()


class _BenchmarkRun:
    """One call of `benchmark`."""

    def __init__(self, manifest: Path, output: Path, settings: BenchmarkSettings, options: CallOptions):
        self.path = manifest_path(manifest)
        self.settings, self.progress, self.say, self.command = settings, options.progress, options.say, options.command
        self.cluster = options.cluster
        workers.check_cluster(self.cluster)
        self.normaliser = NORMALISERS[settings.normaliser]
        find_normaliser(self.normaliser)("")                # raises an error now if its package is not installed
        self.noise_config = noise_config(settings.noise_config)
        self.results, self.done = Results(output), Benchmarked(output)
        self.done.n_cut = self.results.n_cut
        self.split, left_out = read_prepared([self.path], settings.split, SEGMENT_SECONDS)
        self.done.skipped += [(one, reason) for one, _, reason in (line.partition(": ") for line in left_out)]
        self.rows = self._utterances()
        if settings.noises is None and self.noise_config is not None:
            raise AvsrError(f"{self.noise_config}: no noise is named, so this file would not be used.  Name some with --noise.")
        if settings.noises is None:
            self.settings = replace(settings, noises=self._default_noise())
        self.noises = self._noise_manifest(output)
        self.measurer = Measurer(self.settings, self.rows, self.normaliser, self.noises)
        self.silent = set() if self.noises is None else set(self.noises.silent)
        self.measured: dict[str, dict[str, Any]] = {}       # systems, for run.json

    # --- what is measured on what ---

    def _utterances(self) -> list[ManifestRow]:
        """The utterances of the split, shortest first, so that those of a batch have similar lengths."""
        rows = self.split
        if (limit := self.settings.limit) is not None and limit < len(rows):
            rows = [rows[i * len(rows) // limit] for i in range(limit)]
        soundless = [row for row in rows if "a" not in row.cache.modality]
        self.done.skipped += [(row.utterance.id, "its cache holds no sound") for row in soundless]
        rows = [row for row in rows if "a" in row.cache.modality]
        if not rows:
            raise BadManifest(f"{self.path}: none of the {len(soundless)} utterances of split {self.settings.split!r} has "
                              "sound.  Prepare them with --modality av.")
        seen = {speaker_of(row) for row in rows if "v" in row.cache.modality}
        if len(seen) < 2 and any(corruption.name == "face" for corruption in self.settings.corruptions):
            raise AvsrError(f"{self.path}: {counted(len(rows), 'utterance')} of {counted(len(seen), 'speaker')} to be "
                            "measured, and another's face asked for.  Leave out --corrupt face, or measure more speakers.")
        return sorted(rows, key=lambda row: (row.n_frames, row.utterance.id))

    def _default_noise(self) -> tuple[str, ...]:
        """Babble of the test's own speakers, or where they are too few for it, speech-shaped noise."""
        why = noise.why_unavailable("babble", *recordings_by_speaker(self.split))
        if why is None:
            return ("babble",)
        self.say(f"The noise is speech-shaped, because babble cannot be made: {why}.  Name a folder of other people's speech "
                 "(--noise babble=FOLDER) to have babble.")
        return ("speech-shaped",)

    def _noise_manifest(self, output: Path) -> noise.NoiseManifest | None:
        """The noise of every utterance in every family. The corpus's own talkers are those of the whole split, so that the
        noise does not depend on the limit."""
        if not self.settings.noises:
            return None
        own, _ = recordings_by_speaker(self.split)
        families = noise.open_families(self.settings.noises, config=self.noise_config, given=self.settings.given, own=own)
        speech = [noise.TargetSpeech(row.utterance.id, row.utterance.speaker, partial(sound_of, row)) for row in self.rows]
        path = output / NOISE if self.settings.noise_manifest is None else Path(self.settings.noise_manifest)
        made = noise.NoiseManifest.open(path, families, speech, level=self.settings.level, progress=self.progress)
        self.done.skipped += [(one, "its speech is silent, so it has no SNR: measured clean only") for one in made.silent]
        return made

    def systems(self, progress: Progress) -> Iterator[Callable[[], System]]:
        """Functions that load each system when its turn comes, or in a worker process."""
        asked = self.settings
        for name, lips in product(asked.models, asked.lips or (None,)):
            yield partial(CheckpointSystem, name, lips=lips, settings=asked, progress=progress)
        for name in asked.against:
            if name.startswith(HMM_PREFIX):
                yield partial(open_hmm, name, asked.modalities, self.path.parent)
            elif "a" in asked.modalities:
                yield partial(open_baseline, name, device=asked.device,
                              beam_size=asked.beam_size or DecodeOptions().beam_size)

    def _measurable(self, condition: AudioCondition) -> list[ManifestRow]:
        """The utterances that have this condition: silent speech has no SNR."""
        return [row for row in self.rows if condition.noise is None or row.utterance.id not in self.silent]

    def _batches(self, system: System) -> list[Batch]:
        size = self.settings.batch_size
        return [Batch(condition, rows[i:i + size]) for condition in conditions(self.settings, system.modalities)
                for rows in [self._measurable(condition)] for i in range(0, len(rows), size)]

    def save_mixtures(self, folder: Path) -> None:
        """Write the audio of every condition of every utterance."""
        wanted = [(one, row) for one in conditions(self.settings, ("a",)) for row in self._measurable(one)]
        mixtures = (Mixture(row.utterance, one.noise, one.snr_db, *self.measurer.mixed(row, sound_of(row), one))
                    for one, row in wanted)
        write_mixtures(folder, mixtures, len(wanted), self.progress)

    def add_predictions(self, path: Path) -> None:
        """Add the rows of what another system wrote."""
        rows = read_predictions(path, [row.utterance for row in self.rows], split=self.settings.split, silent=self.silent)
        rows = [replace(row, normaliser=self.normaliser) for row in rows]
        for row in rows:
            self.results.check_same(row)
        self._add(rows)

    def _add(self, rows: Iterable[ResultRow]) -> None:
        new = [row for row in rows if row.key not in self.results]
        self.results.add(new)
        self.done.n_new += len(new)

    # --- measuring ---

    def measure(self, system: System, open_system: Callable[[], System]) -> None:
        """Compute every row of a system that is not there yet. open_system: opens the same one in a worker process."""
        self.results.check({"system": system.name, "split": self.settings.split, "normaliser": self.normaliser,
                            **system.facts})
        self.measured[system.name] = {**system.facts, "device": system.device, **system.about}
        if isinstance(system, CheckpointSystem):
            self._check_checkpoint(system)
        batches = self._batches(system)
        todo = [batch for batch in batches if any(key not in self.results for key in keys_of(system, batch))]
        total = sum(batch.n_results for batch in batches)
        count = total - sum(batch.n_results for batch in todo)
        self.progress(f"measuring {system.name}", count, total, "rows")
        done = self._here(system, todo) if self.cluster is None else self._elsewhere(system, open_system, todo)
        with closing(done):
            for batch, (rows, timings) in done:
                self._add(rows)
                append(self.done.folder / TIMINGS, map(json_line, timings))
                count += batch.n_results
                self.progress(f"measuring {system.name}", count, total, "rows")

    def _here(self, system: System, todo: Sequence[Batch]) -> Generator[tuple[Batch, Measured], None, None]:
        """Each batch with its rows, by threads of this process."""
        n_parallel = system.n_parallel_batches
        with _torch_threads(max(1, n_cores() // n_parallel)), ThreadPoolExecutor(n_parallel) as pool:
            yield from _in_order(pool, partial(self.measurer.measure, system), todo, n_parallel)

    def _elsewhere(self, system: System, open_system: Callable[[], System],
                   todo: Sequence[Batch]) -> Generator[tuple[Batch, Measured], None, None]:
        """Each batch with its rows, by the machines of a cluster, as they come. Raises AvsrError."""
        work = MeasureBatch(self.measurer, open_system)
        gpu = self.settings.device.startswith("cuda")
        for number, measured in workers.run(work, todo, cluster=self.cluster, gpu=gpu):
            if measured is None:
                raise AvsrError(f"{system.name}: {workers.TRIES} workers died of the batch that begins with "
                                f"{todo[number].rows[0].utterance.id}.  See to their memory, or use a smaller --batch-size; "
                                "the rows of the others are kept.")
            for row in measured[0]:
                if row.sha256 != system.facts.get("sha256"):
                    raise AvsrError(f"--cluster {self.cluster}: {system.name} has other weights there than here.  Copy the "
                                    "model to all machines of the cluster, to the same folder.")
            yield todo[number], measured

    def _check_checkpoint(self, system: CheckpointSystem) -> None:
        """Say which modalities the model lacks. Raises BadManifest where it needs mouths that are cropped in another way."""
        missing = set(self.settings.modalities) - set(system.modalities) - {"none"}
        if missing:
            able = " or ".join(MODALITY_NAMES[one].long for one in system.checkpoint.modalities)
            lacking = " or with ".join(MODALITY_NAMES[one].long for one in INPUT_MODALITIES if one in missing)
            self.say(f"{system.name}: uses {able}, so it is not measured with {lacking}.")
        if any("v" in one for one in system.modalities):
            read_mouth_crop(self.path.parent, system.checkpoint.mouth_crop)

    def finish(self) -> Benchmarked:
        """Sort the rows, and write the samples and run.json."""
        self.results.sort()
        write_samples(self.done.folder, self.results.by_key.values(), {row.utterance.id: row for row in self.rows})
        self.done.n_rows = len(self.results)
        facts = {"command": self.command, "avsr": __version__, "python": platform.python_version(),
                 "torch": torch.__version__.partition("+")[0], "cores": n_cores(), "normaliser": self.normaliser,
                 "systems": self.measured,
                 "settings": {**asdict(self.settings), "corruptions": list(map(str, self.settings.corruptions))},
                 "skipped": [{"id": one, "reason": reason} for one, reason in self.done.skipped]}
        write_file(self.done.folder / RUN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        return self.done


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    """Let each torch operation use n threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_order(pool: ThreadPoolExecutor, work: Callable, batches: Sequence[Batch],
              n_ahead: int) -> Iterator[tuple[Batch, Any]]:
    """Each batch with what `work` made of it, in order; a few are worked on ahead."""
    running: deque[tuple[Batch, Future]] = deque()
    waiting = iter(batches)
    try:
        while True:
            while len(running) < 2 * n_ahead and (batch := next(waiting, None)) is not None:
                running.append((batch, pool.submit(work, batch)))
            if not running:
                return
            batch, future = running.popleft()
            yield batch, future.result()
    finally:
        for _, future in running:
            future.cancel()
