"""Enrols a person: from videos to lips under a name, or to a sentence that says why not.

    name, videos -> checks -> material -> folds: adapt on some, check on the others -> adapt on all -> enrolled_folder(name)
Mouths and sound lie in a folder beside the result while this runs, and are deleted at its end, however it ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from avsr import checkpoint
from avsr.assets import MissingAsset
from avsr.checkpoint import Checkpoint
from avsr.checkpoint.kept import enrolled_folder
from avsr.checkpoint.whisper import PACKAGED, load_packaged
from avsr.enrol.adaptation import adapt, load_lips
from avsr.enrol.check import MOST_BY_SOUND, Check, by_lips, hearing, percents
from avsr.enrol.material import LOOSE, Material, gather, write_folds
from avsr.enrol.people import check_name, work_folder
from avsr.enrol.texts import given_texts
from avsr.enrol.videos import check_one_face, find_videos
from avsr.errors import AvsrError, BadOutput
from avsr.label import LabelLimits
from avsr.metrics import NOTHING
from avsr.metrics.counting import Score
from avsr.output import locked
from avsr.runtime import Progress, no_progress, pick_device

N_FOLDS = 3                           # parts of the material, each held out once


@dataclass(frozen=True)
class EnrolSettings:
    """How to enrol somebody.

    lips: the model whose lips are adapted. ears: that which writes the words, None for the best Whisper that needs no network,
    see `best_ears`. text: what is said, a file or a folder with NAME.txt for each video. replace: whether lips of this name may
    be replaced. limits: which segments are used. device: auto, cpu or cuda.
    """

    lips: str = "grid"
    ears: str | None = None
    text: Path | None = None
    replace: bool = False
    limits: LabelLimits = field(default_factory=lambda: LOOSE)
    device: str = "auto"


@dataclass(frozen=True)
class Enrolled:
    """Somebody whose lips are now kept. folder: where. n_bytes: of all its files. check: what they are worth.

    facts: what is kept beside the weights: date, base, ears, seconds and segments of speech, check.
    """

    name: str
    folder: Path
    n_bytes: int
    check: Check
    ears: str
    facts: dict[str, Any]
    material: Material


def enrol(name: str, videos: Sequence[str | Path], settings: EnrolSettings = EnrolSettings(), *,
          progress: Progress = no_progress) -> Enrolled:
    """Adapt lips to the person in the videos and keep them under `name`, if a check on held-out speech says they got better.

    Raises AvsrError and its kinds: for a name that cannot be given, for videos that do not show one person speaking, for too
    little speech, a text that does not fit, lips that cannot be adapted, and lips that did not get better.
    """
    check_name(name, replace=settings.replace)
    recordings = find_videos(videos)
    texts = given_texts(settings.text, recordings)
    lips = load_lips(settings.lips, progress)
    ears = settings.ears or best_ears(progress)
    check_one_face(recordings, progress)
    work = work_folder(name)
    try:
        with locked(work, "avsr enrol"), _deleted_at_the_end(work):
            material = gather(recordings, work / "cache", ears, texts=texts, mouth_crop=lips.mouth_crop,
                              limits=_limits(settings, lips), device=settings.device, progress=progress)
            return _learn(name, lips, ears, material, work, settings, progress)
    except OSError as error:
        raise BadOutput(f"{work}: it cannot be written ({error.strerror}).  Make room, or set AVSR_DATA to another folder.") \
            from error


@contextmanager
def _deleted_at_the_end(folder: Path) -> Iterator[None]:
    """Empties a folder before and deletes it after, however the block ends; within the lock, so that it is nobody else's."""
    shutil.rmtree(folder / "cache", ignore_errors=True)         # of a killed enrolment, perhaps of other videos
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _limits(settings: EnrolSettings, lips: Checkpoint) -> LabelLimits:
    """The limits, in the language of the lips if they write only one: in clips of 3 s another one is soon detected."""
    only = lips.languages[0] if len(lips.languages) == 1 else None
    return settings.limits if settings.limits.language else replace(settings.limits, language=only)


def best_ears(progress: Progress = no_progress) -> str:
    """The best Whisper that is on this machine without a network: `base`, else `tiny.en`."""
    for size in reversed(PACKAGED):
        try:
            load_packaged(size, False, progress)
        except MissingAsset:
            continue
        return size
    return PACKAGED[0]                                      # loading it says what is missing


def folds(n: int) -> list[list[int]]:
    """The numbers of the rows that are held out each time: up to N_FOLDS parts without gaps, as neighbours are alike."""
    parts = min(N_FOLDS, n)
    return [list(range(i * n // parts, (i + 1) * n // parts)) for i in range(parts)]


def _learn(name: str, lips: Checkpoint, ears: str, material: Material, work: Path, settings: EnrolSettings,
           progress: Progress) -> Enrolled:
    source = str(Path(settings.lips).resolve()) if Path(settings.lips).is_dir() else settings.lips
    check = _check(lips, source, ears, material, work, settings, progress)
    if not check.better:
        raise AvsrError(f"{name}: not kept, because the lips did not get better: by lips alone {check.after:.0f} % of "
                        f"{check.n_words} held-out words are wrong, {check.before:.0f} % before.  Give more clear video, "
                        "the right text with --text, or better ears with --ears.")
    rows = write_folds(material, [])
    final = adapt(lips, source, rows, work / "all", device=settings.device, progress=_told(progress, "adapting to all"))
    facts = {"enrolled": date.today().isoformat(), "lips": source, "ears": ears,
             "text_by": "user" if settings.text else ears, "seconds": round(material.seconds, 1),
             "utterances": len(material.rows), "check": check.facts()}
    folder = enrolled_folder(name)
    checkpoint.save(replace(final, name=name, base=source, training=facts), folder,
                    remedy="Make room, or set AVSR_DATA to another folder.")
    n_bytes = sum(one.stat().st_size for one in folder.iterdir())
    return Enrolled(name, folder, n_bytes, check, ears, facts, material)


def _check(lips: Checkpoint, source: str, ears: str, material: Material, work: Path, settings: EnrolSettings,
           progress: Progress) -> Check:
    """Each part of the material read by lips that learnt from the others."""
    before, after, parts = by_lips(lips, material.rows), NOTHING, folds(len(material.rows))
    heard = hearing(checkpoint.load(ears, lips=False, device=pick_device(settings.device)), material.rows,
                    clean=settings.text is not None)
    asked = set(range(0, len(material.rows), max(1, -(-len(material.rows) // MOST_BY_SOUND))))
    by_sound: dict[str, Score] = {}
    by_both: dict[str, Score] = {}
    for number, held_out in enumerate(parts):
        rows, stage = write_folds(material, held_out), f"checking on part {number + 1} of {len(parts)}"
        adapted = adapt(lips, source, rows, work / f"fold-{number}", device=settings.device, progress=_told(progress, stage))
        after += by_lips(adapted, [material.rows[i] for i in held_out])
        shutil.rmtree(work / f"fold-{number}")
        some = [material.rows[i] for i in held_out if i in asked]
        progress(f"{stage}: hearing in noise", 0, None, None)
        by_sound, by_both = _added(by_sound, heard.errors(None, some)), _added(by_both, heard.errors(adapted, some))
    return Check(before.words, round(before.percent or 0.0, 1), round(after.percent or 0.0, 1), percents(by_sound),
                 percents(by_both))


def _added(one: Mapping[str, Score], other: Mapping[str, Score]) -> dict[str, Score]:
    return {level: one.get(level, NOTHING) + score for level, score in other.items()}


def _told(progress: Progress, stage: str) -> Progress:
    """Tells the steps of a training under another name, and nothing of its other stages."""
    def tell(what: str, done: float, total: float | None, unit: Any) -> None:
        if what == "training":
            progress(stage, done, total, "steps")

    return tell
