"""Labels raw recordings and packs what is kept into a corpus, in parallel; a run can be resumed.

    recordings -> LabelJobs -> worker processes -> labels.jsonl, shards, journal.jsonl -> manifest.jsonl, dropped.tsv,
    problems.tsv, contact_sheets/, labels.html
Labels are written as they come; utterances are added to the shards in the order of the recordings, so that the bytes are the
same with any number of workers and however often the run was killed. What comes early waits in a file without a name.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from avsr import assets, faces, manifest, remote, workers
from avsr.errors import BadOutput, counted
from avsr.label import readings
from avsr.label.journal import LabelJournal, RecordingEnd
from avsr.label.labeller import LabelJob, Labelled, LabelSettings, Share, work
from avsr.label.labels import Label, utterance, why_left_out, why_unlabelled
from avsr.label.page import write_page
from avsr.label.result import CLIPS, LabelledCorpus, Recording
from avsr.manifest import Dropped, Problem, Utterance
from avsr.names import file_name
from avsr.output import write_file
from avsr.prepare import PrepareSettings, conclude
from avsr.prepare.crop import Outcome
from avsr.prepare.dashboard import Dashboard, Tell, tell_nobody
from avsr.prepare.journal import Journal, identity
from avsr.runtime import Progress, no_progress

DIED = "worker died"


def label(recordings: Sequence[Recording], folder: str | Path, *, settings: LabelSettings,
          prepare: PrepareSettings | None = None, dropped: Sequence[Dropped] = (),
          progress: Progress = no_progress, dashboard: Tell = tell_nobody) -> LabelledCorpus:
    """Label `recordings` and prepare a corpus of them in `folder`, from where an earlier run stopped.

    dropped: what the reader of the folder could not use. progress: called with the number of recordings done, which is not
    whole. dashboard: called with the line of prepare.dashboard. Raises AvsrError, BadCheckpoint and MissingAsset for what is
    asked for and cannot be, BadManifest for a folder with labels or a cache made in another way, BadOutput where it cannot
    write.
    """
    if remote.as_address(folder):
        raise BadOutput(f"{remote.shown(folder)}: labels are written into a folder of this machine.  Name one, and copy it to "
                        "the storage when it is done.")
    prepare, folder = prepare or PrepareSettings(), Path(os.path.realpath(folder))
    workers.check_cluster(prepare.cluster)
    prepare = replace(prepare, max_missing=settings.limits.max_missing)
    if "v" in prepare.modality and (landmarks := prepare.mouth_crop.face_landmarks) is not None:
        assets.find(faces.asset_of(landmarks))
    settings = replace(settings, model=str(readings.model_name(settings.model)),
                       second_model=settings.second_model and str(readings.model_name(settings.second_model)))
    made_by = _made_by(settings, progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Journal(folder, prepare.mouth_crop, prepare.modality, prepare.max_bytes) as journal:
            run = _Run(folder, recordings, LabelJournal(folder, made_by), journal, settings, prepare)
            try:
                run.work_off(progress, dashboard)
                journal.finish()
            except OSError as error:
                raise BadOutput(f"{folder}: {error.strerror} after {counted(len(journal.rows), 'utterance')}.  Make room and "
                                "run the same command again: what is done is kept.") from error
            corpus = run.conclude(list(dropped))
        write_page(corpus)
        return corpus
    except OSError as error:
        raise BadOutput(f"{folder}: it cannot be written to ({error.strerror}).  Choose another folder.") from error


def _made_by(settings: LabelSettings, progress: Progress) -> dict[str, str | None]:
    """What the labels depend on; the models are loaded once here, so that what is wrong with them is said before the work."""
    progress("loading the model", 0, None, None)
    return readings.fingerprint(readings.load(settings.model, settings.second_model, settings.device), settings.limits.code)


class _Run:
    """The state of a run: what is labelled, what is in the shards, what is still to be done."""

    def __init__(self, folder: Path, recordings: Sequence[Recording], labels: LabelJournal, journal: Journal,
                 settings: LabelSettings, prepare: PrepareSettings):
        self.folder, self.labels, self.journal, self.settings, self.prepare = folder, labels, journal, settings, prepare
        self.recordings = [replace(one, media=os.path.relpath(os.path.abspath(one.media), folder)) for one in recordings]
        self.model = labels.made_by["model"] or ""
        self.n_done_before = 0

    def work_off(self, progress: Progress, dashboard: Tell) -> None:
        """Label the recordings that are not done, and add to the journals what comes."""
        todo = [one for one in self.recordings if not self._is_done(one)]
        self.n_done_before = len(self.recordings) - len(todo)
        jobs = [self._job(one) for one in todo]
        order = _InOrder(self.journal, self.folder, len(jobs))
        board = Dashboard(None, len(self.journal.rows))
        shares = dict.fromkeys(range(len(jobs)), 0.0)

        def tell() -> None:
            progress("labelling", self.n_done_before + sum(shares.values()), len(self.recordings), "files")
            dashboard(board.line())

        def take(number: int, part: Share | Labelled) -> None:
            if isinstance(part, Share):
                shares[number] = part.done
                tell()
            else:
                self._take(number, part, order)
                board.add(part.outcome is not None, dropped=why_left_out(part.label, self.settings.limits))

        tell()
        task = partial(work, settings=self.settings, prepare=self.prepare)
        gpu = self.settings.device.startswith("cuda")
        for number, end in workers.run(task, jobs, self.prepare.workers, cluster=self.prepare.cluster, gpu=gpu, on_part=take):
            end = end or RecordingEnd(jobs[number].media, 0.0, 0, reason=DIED)
            board.add(seconds=end.seconds, dropped=end.reason)
            self.labels.add(end)
            order.end(number)
            shares[number] = 1.0
            tell()

    def _take(self, number: int, part: Labelled, order: _InOrder) -> None:
        label = part.label
        if self.labels.labels[label.media].get(label.start_frame) != label:
            self.labels.add(label)
        if part.utterance is not None and part.outcome is not None:
            order.add(number, part.utterance, part.outcome)
        if part.clip is not None:
            write_file(self.folder / CLIPS / f"{file_name(label.id)}.mp4", part.clip)

    def _is_done(self, recording: Recording) -> bool:
        """Whether a recording was read to its end, and what the limits keep is labelled and in the shards. One that could not
        be read is tried again."""
        end = self.labels.ends.get(recording.media)
        if end is None or end.reason is not None:
            return False
        labels = self.labels.labels[recording.media].values()
        if any(label.text is None and why_unlabelled(label, self.settings.limits) is None for label in labels):
            return False
        return len(self._packed(recording)) == len(self._rows(recording))

    def _rows(self, recording: Recording) -> list[Utterance]:
        """The utterances of a recording that the limits keep, in order."""
        labels = self.labels.labels[recording.media]
        return [utterance(labels[start], self.model) for start in sorted(labels)
                if why_left_out(labels[start], self.settings.limits) is None]

    def _packed(self, recording: Recording) -> frozenset[str]:
        return frozenset(row.id for row in self._rows(recording)
                         if (done := self.journal.rows.get(row.id)) is not None and done.what == identity(row))

    def _job(self, recording: Recording) -> LabelJob:
        return LabelJob(os.path.normpath(self.folder / recording.media), recording.media, recording.name, self.model,
                        dict(self.labels.labels[recording.media]), self._packed(recording))

    def conclude(self, dropped: list[Dropped]) -> LabelledCorpus:
        """Write the manifest, the tables, the contact sheets and the page."""
        rows, problems, left_out = [], [], []
        for recording in self.recordings:
            end, labels = self.labels.ends.get(recording.media), self.labels.labels[recording.media]
            packed = self._packed(recording)
            rows += [row for row in self._rows(recording) if row.id in packed]
            if end is not None and end.reason is not None:
                dropped.append(Dropped(recording.media, end.reason))
            problems += [Problem(recording.name, "media", Path(recording.media).name, sentence)
                         for sentence in (end.problems if end is not None else ())]
            left_out += [(label, reason) for _, label in sorted(labels.items())
                         if (reason := why_left_out(label, self.settings.limits)) is not None]
        dropped += [Dropped(label.id, reason) for label, reason in left_out]
        rows, n_drawn = _draw_valid(rows, self.prepare.valid_share)
        prepared = conclude(self.folder, rows, [self.journal.rows[row.id] for row in rows], 0, dropped, self.prepare,
                            problems=problems)
        ends = [self.labels.ends[one.media] for one in self.recordings if one.media in self.labels.ends]
        return LabelledCorpus(prepared, self.labels.made_by, tuple(ends), self._all_labels(), self.n_done_before, n_drawn,
                              self.settings.limits)

    def _all_labels(self) -> tuple[Label, ...]:
        return tuple(label for one in self.recordings for _, label in sorted(self.labels.labels[one.media].items()))


class _InOrder:
    """Adds outcomes to the shards in the order of the jobs. Those of later jobs wait in files that a kill removes."""

    def __init__(self, journal: Journal, folder: Path, n_jobs: int):
        self.journal, self.folder, self.n_jobs, self.turn = journal, folder, n_jobs, 0
        self.ended: set[int] = set()
        self.early: dict[int, BinaryIO] = {}

    def add(self, number: int, row: Utterance, outcome: Outcome) -> None:
        """An outcome of a job, in order among those of that job."""
        if number == self.turn:
            self._write(row, outcome)
            return
        if number not in self.early:
            self.early[number] = tempfile.TemporaryFile(dir=self.folder)      # noqa: SIM115 - closed by _replay
        pickle.dump((row, outcome), self.early[number])

    def end(self, number: int) -> None:
        """That a job has no further outcome."""
        self.ended.add(number)
        while self.turn in self.ended:
            self.turn += 1
            self._replay(self.turn)

    def _replay(self, number: int) -> None:
        if (file := self.early.pop(number, None)) is None:
            return
        with file:
            file.seek(0)
            while True:
                try:
                    row, outcome = pickle.load(file)
                except EOFError:
                    break
                self._write(row, outcome)

    def _write(self, row: Utterance, outcome: Outcome) -> None:
        done = self.journal.rows.get(row.id)
        if done is None or done.what != identity(row):       # a job that was begun anew gives its first outcomes twice
            self.journal.add(outcome, row)


def _draw_valid(rows: list[Utterance], share: float, seed: int = 0) -> tuple[list[Utterance], int]:
    """The same utterances, with those of a share of the recordings of split `train` moved to split `valid`, if that is empty;
    and the number of these recordings. Never parts of a recording: its speakers and its room would be in both."""
    training = {_recording(row): None for row in rows if row.split == "train"}
    if not share or len(training) < 2 or any(row.split == "valid" for row in rows):
        return rows, 0
    n_drawn = min(max(1, round(share * len(training))), len(training) - 1)
    drawn = set(manifest.shuffled(training, seed)[:n_drawn])
    return [replace(row, split="valid") if _recording(row) in drawn and row.split == "train" else row for row in rows], n_drawn


def _recording(row: Utterance) -> str:
    """The name of an utterance's recording."""
    return row.id.rpartition("@")[0]
