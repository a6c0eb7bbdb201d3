"""Prepares corpora for training: decode, track, crop and pack every utterance, in parallel; a run can be resumed.

    Utterances -> jobs (one recording each) -> worker processes -> shards, journal -> manifest.jsonl, dropped.tsv,
    problems.tsv, contact_sheets/
Worker processes crop (crop.py), here or on a cluster (avsr.workers). This process alone writes (journal.py,
storage.py), in the order of the corpus, so the bytes are the same with any number of workers and however often the run was
killed in between. contact_sheets.py shows the mouths.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from avsr import assets, faces, manifest, remote, workers
from avsr.errors import BadManifest, BadOutput, counted
from avsr.manifest import Dropped, Problem, Utterance
from avsr.prepare.contact_sheets import write_contact_sheets
from avsr.prepare.crop import Job, Outcome, PrepareSettings, no_faces, work
from avsr.prepare.dashboard import Dashboard, Tell, tell_nobody
from avsr.prepare.journal import Done, Journal, identity
from avsr.prepare.storage import Storage
from avsr.rates import SAMPLE_RATE, VIDEO_FPS
from avsr.runtime import Progress, no_progress

__all__ = ["PrepareSettings", "Prepared", "prepare"]

HELD_BYTES = 256 * 2**20              # results that may wait in memory for an earlier one to be written
DIED = "worker died"
SHOWN = 12                            # reasons that a summary lists


@dataclass(frozen=True)
class Prepared:
    """The result: the manifest, what was dropped and why, and what may be wrong with the rest.

    n_asked: utterances to prepare. n_done_before: how many of them an earlier run had done. n_training: how many are for
    training. n_drawn: how many of those were moved to split `valid` because the corpus has no such split. dropped: what could
    not be used, and what the corpus reader left out, which `max_dropped` does not count: a split list may leave out most of a
    corpus.
    """

    manifest: Path
    utterances: list[Utterance]
    dropped: list[Dropped]
    problems: list[Problem]
    n_asked: int
    n_done_before: int
    settings: PrepareSettings
    n_drawn: int = 0
    n_training: int = 0

    def summary(self) -> str:
        """Lines for the user: how many utterances, what was dropped and what may be wrong, most frequent reasons first."""
        before = f", {self.n_done_before} of them by an earlier run" if self.n_done_before else ""
        lines = [f"{remote.shown(self.manifest)}: {counted(len(self.utterances), 'utterance')}{before}{self._splits()}"]
        lines += [f"  {sentence}" for sentence in (*self.unknown(), *self._lacks())]
        for name, reasons in (("dropped", self.dropped_reasons), ("problems", Counter(one.reason for one in self.problems))):
            if reasons:
                n_all = sum(reasons.values())
                lines.append(f"{remote.shown(self.manifest.with_name(name + '.tsv'))}: {n_all} "
                             f"{name if n_all > 1 else name.removesuffix('s')}")
                lines += [f"  {count:6d}  {reason}" for reason, count in reasons.most_common(SHOWN)]
        return "\n".join(lines)

    def unknown(self) -> list[str]:
        """What cannot be known of mouths that came cropped."""
        if self.settings.mouth_crop.face_landmarks is not None or "v" not in self.settings.modality:
            return []
        return ["Each picture was taken as a mouth. How it was cut out, and whether a face was found, cannot be known: no "
                "frame counts as missing, and a model that is trained on these mouths takes pictures as mouths too."]

    def _lacks(self) -> list[str]:
        """How split `valid` was made, and what `avsr train` would miss in the manifest."""
        splits = Counter(utterance.split for utterance in self.utterances)
        share = self.settings.valid_share
        if not splits:
            return []
        if not splits["train"]:
            return ["No utterance is in split 'train': avsr benchmark can measure models on this manifest, but avsr train "
                    "cannot learn from it."]
        if splits["valid"] and self.n_drawn:
            return [f"The corpus has no split 'valid'; drawn for it: {self.n_drawn} of {self.n_training} training utterances "
                    f"({100 * share:g} % of each speaker, but at least one in all; --valid-share 0 draws none)."]
        if splits["valid"]:
            return []
        if share == 0:
            remedy = "leave out --valid-share 0, or name another manifest in data.valid of the training config."
        elif self.n_training < 2:
            remedy = ("it is drawn from two training utterances or more, and there is one.  Add clips, or name another "
                      "manifest in data.valid of the training config.")
        else:
            remedy = "all that were in it have been dropped."
        return [f"No utterance is in split 'valid', which avsr train needs: {remedy}"]

    def _splits(self) -> str:
        """How many utterances are in each split, the largest first."""
        counts = Counter(utterance.split or "no split" for utterance in self.utterances)
        return f" ({', '.join(f'{count} {name}' for name, count in counts.most_common())})" if counts else ""

    @property
    def dropped_reasons(self) -> Counter[str]:
        """How many utterances were dropped for each kind of reason, which is the part before the colon."""
        return Counter(dropped.reason.partition(":")[0] for dropped in self.dropped)

    def check(self) -> None:
        """Raises BadManifest if more utterances were dropped than `max_dropped` allows, or none is left."""
        name = remote.shown(self.manifest)
        lost, listed = self.n_asked - len(self.utterances), remote.shown(self.manifest.with_name("dropped.tsv"))
        allow = "--max-missing and --modality put up with some of the reasons."
        if not self.utterances and not self.dropped:
            raise BadManifest(f"{name}: the corpus holds no utterance.  Check the folder or the table that was named.")
        if not self.utterances:
            ((reason, count),) = self.dropped_reasons.most_common(1)
            raise BadManifest(f"{name}: nothing that can be used is left: {len(self.dropped)} dropped, {count} of "
                              f"them because of this: {reason}.  {listed} lists each with its reason"
                              f"{f'; {allow}' if self.n_asked else '.'}")
        if lost > self.settings.max_dropped * self.n_asked:
            limit = f"{lost / self.n_asked:.0%}, limit {self.settings.max_dropped:.0%}"
            raise BadManifest(f"{name}: {lost} of {counted(self.n_asked, 'utterance')} dropped ({limit}); the others "
                              f"can be used.  {listed} lists them with the reason; --max-dropped puts up with them, {allow}")


def prepare(utterances: Iterable[Utterance], folder: str | Path, *, settings: PrepareSettings | None = None,
            dropped: Sequence[Dropped] = (), progress: Progress = no_progress, dashboard: Tell = tell_nobody) -> Prepared:
    """Crop, pack and check `utterances` into `folder`, from where an earlier run stopped.

    utterances: media paths absolute, addresses, or relative to the current folder. folder: also an address such as
    s3://bucket/prepared, see storage.py. dropped: what the corpus reader could not use,
    which is listed with the rest. progress: called with utterances done, those of earlier runs included.
    dashboard: called with the line of dashboard.py.

    Writes manifest.jsonl (in the order of `utterances`), shards, dropped.tsv, problems.tsv and contact_sheets/.
    Raises BadManifest for ids that come twice or a folder with a cache made in another way, BadOutput where it cannot write,
    and MissingAsset.
    """
    settings = settings or PrepareSettings()
    workers.check_cluster(settings.cluster)
    address = remote.as_address(folder)
    storage = None if address is None else Storage(address)
    folder = Path(os.path.realpath(folder)) if storage is None else storage.local
    everything = [relative_to_manifest(utterance, None if storage else folder) for utterance in utterances]
    _check_ids(everything)
    n_valid, n_training = (sum(utterance.split == name for utterance in everything) for name in ("valid", "train"))
    everything = manifest.draw_valid(everything, settings.valid_share)
    n_drawn = sum(utterance.split == "valid" for utterance in everything) - n_valid
    if "v" in settings.modality and (landmarks := settings.mouth_crop.face_landmarks) is not None:
        assets.find(faces.asset_of(landmarks))               # fails before any worker is started
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Journal(folder, settings.mouth_crop, settings.modality, settings.max_bytes, storage) as journal:
            done = {utterance.id for utterance in everything if _is_done(journal.rows.get(utterance.id), utterance, settings)}
            jobs = _jobs([utterance for utterance in everything if utterance.id not in done], folder)
            try:
                _work_off(jobs, journal, settings, _Watch(progress, dashboard, len(everything), len(done)))
                journal.finish()
            except OSError as error:
                raise BadOutput(f"{folder}: {error.strerror} after {len(journal.rows)} of "
                                f"{counted(len(everything), 'utterance')}.  Make room and run the same command again: what is "
                                "done is kept.") from error
            rows = [journal.rows[utterance.id] for utterance in everything]
    except OSError as error:
        raise BadOutput(f"{folder}: it cannot be written to ({error.strerror}).  Choose another folder.") from error
    prepared = conclude(folder, everything, rows, len(done), list(dropped), settings, base=address)
    if storage is not None:
        storage.publish()
        prepared = replace(prepared, manifest=manifest.manifest_path(storage.address))
    return replace(prepared, n_drawn=n_drawn, n_training=n_training)


def relative_to_manifest(utterance: Utterance, folder: Path | None) -> Utterance:
    """The utterance with its media path relative to the manifest; absolute if the manifest lies at an address."""
    if "://" in utterance.media:
        return utterance
    if folder is None:
        return replace(utterance, media=os.path.abspath(utterance.media))
    return replace(utterance, media=os.path.relpath(os.path.abspath(utterance.media), folder))


def _check_ids(utterances: Sequence[Utterance]) -> None:
    for id_, count in Counter(utterance.id for utterance in utterances).most_common(1):
        if count > 1:
            raise BadManifest(f"corpus: {count} utterances have the id {id_!r}.  Ids must be unique: rename them.")


def _is_done(row: Done | None, utterance: Utterance, settings: PrepareSettings) -> bool:
    """Whether an utterance need not be prepared again. A dropped one is tried again, unless too few frames show a face."""
    if row is None or row.what != identity(utterance):
        return False
    return row.dropped is None or (row.share is not None and no_faces(row.share, settings.max_missing) is not None)


def _jobs(utterances: Sequence[Utterance], folder: Path) -> list[Job]:
    """One job for each recording, in the order in which recordings first occur."""
    by_media: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_media[utterance.media].append(utterance)
    return [Job(media if "://" in media else os.path.normpath(folder / media), tuple(theirs))
            for media, theirs in by_media.items()]


class _Watch:
    """Tells the callbacks how far a run is."""

    def __init__(self, progress: Progress, tell: Tell, n_total: int, n_done: int):
        self.progress, self.tell, self.board, self.n_total = progress, tell, Dashboard(n_total, n_done), n_total
        progress("preparing", n_done, n_total, "utterances")

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count the outcomes of a job."""
        for one in outcomes:
            frames, samples = (one.packed.n_frames, one.packed.n_samples) if one.packed else (0, 0)
            self.board.add(1, max(frames / VIDEO_FPS, samples / SAMPLE_RATE), one.dropped)
        self.progress("preparing", self.board.n, self.n_total, "utterances")
        self.tell(self.board.line())


def _work_off(jobs: Sequence[Job], journal: Journal, settings: PrepareSettings, watch: _Watch) -> None:
    """Do the jobs, and add the outcomes to the journal in the order of the jobs."""
    early: dict[int, list[Outcome]] = {}                     # done before jobs that come before them
    next_job = 0

    def hold() -> bool:
        return sum(len(one.packed.blob) for outcomes in early.values() for one in outcomes if one.packed) > HELD_BYTES

    task = partial(work, settings=settings)
    for number, outcomes in workers.run(task, jobs, settings.workers, cluster=settings.cluster, hold=hold):
        early[number] = outcomes or [Outcome(utterance.id, dropped=DIED) for utterance in jobs[number].utterances]
        watch.add(early[number])
        while next_job in early:
            for outcome, utterance in zip(early.pop(next_job), jobs[next_job].utterances, strict=True):
                journal.add(outcome, utterance)
            next_job += 1


def conclude(folder: Path, everything: Sequence[Utterance], rows: Sequence[Done], n_before: int, dropped: list[Dropped],
             settings: PrepareSettings, *, problems: Sequence[Problem] = (), base: str | None = None) -> Prepared:
    """Write the manifest, the tables and the contact sheets, from the rows of the journal.

    problems: further ones to list. base: the address of the shards, where they are not in `folder`.
    """
    kept, problems = [], list(problems)
    hashes: dict[str, str] = {}
    curves: dict[str, list[np.ndarray]] = defaultdict(list)
    for utterance, row in zip(everything, rows, strict=True):
        reason = row.dropped or (None if row.share is None else no_faces(row.share, settings.max_missing))
        if reason is not None:
            dropped.append(Dropped(utterance.id, reason))
            continue
        kept.append(replace(utterance, cache=row.cache))
        problems += row.problems
        if row.sound_hash is not None:
            hashes[utterance.id] = row.sound_hash
        if row.curve is not None and utterance.speaker is not None:
            curves[utterance.speaker].append(np.array(row.curve))
    problems += manifest.check_all(kept, hashes) + manifest.check_speakers(curves)
    path = folder / "manifest.jsonl"
    manifest.write(path, kept)
    manifest.write_dropped(folder / "dropped.tsv", dropped)
    manifest.write_problems(folder / "problems.tsv", problems)
    write_contact_sheets(folder, kept, base)
    return Prepared(path, kept, dropped, problems, len(everything), n_before, settings)
