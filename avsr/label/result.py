"""What is to be labelled, and what came of it: recordings in, a summary for the user out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avsr.corpora.files import files_below, is_sound, recordings
from avsr.errors import BadManifest, counted
from avsr.folders import Sidecars, nfc
from avsr.label.journal import RecordingEnd
from avsr.label.labels import Label, LabelLimits, why_left_out
from avsr.manifest import Dropped
from avsr.prepare import SHOWN, Prepared

CLIPS = "left_out"                    # folder of the clips of segments that were left out


@dataclass(frozen=True)
class Recording:
    """A recording to be labelled. media: its path. name: its path in the corpus, without suffix; unique."""

    media: str
    name: str


def find_recordings(folder: str | Path) -> tuple[list[Recording], list[Dropped]]:
    """The recordings below a folder by name, and what cannot be used. Of two with one name the video is taken.

    Texts beside them are not used, and each is listed as such. Raises BadManifest for a folder without recordings.
    """
    folder = Path(folder).resolve()
    paths, dropped = recordings(folder)
    files = files_below(folder)
    texts, found = Sidecars(files, paths), {}
    for path in paths:
        name = nfc(path.relative_to(folder).with_suffix("").as_posix())
        if name in found:
            if not is_sound(path) or is_sound(found[name].media):
                dropped.append(Dropped(path.as_posix(), f"the same name as {found[name].media}"))
            continue
        found[name] = Recording(path.as_posix(), name)
        if (text := texts.find(path, ".txt")) is not None:
            dropped.append(Dropped(text.as_posix(), "a text that is not used: --label writes its own"))
    return [found[name] for name in sorted(found)], dropped


@dataclass(frozen=True)
class LabelledCorpus:
    """The result of labelling: the prepared corpus, and what was found in the recordings.

    made_by: the recognisers, see readings.fingerprint. ends: the recordings that were read. labels: all segments. n_before:
    recordings that an earlier run had done. n_drawn: recordings that were moved to split `valid`.
    """

    prepared: Prepared
    made_by: Mapping[str, str | None]
    ends: tuple[RecordingEnd, ...]
    labels: tuple[Label, ...]
    n_before: int
    n_drawn: int
    limits: LabelLimits

    @property
    def kept(self) -> list[Label]:
        """The labels that pass the limits."""
        return [label for label in self.labels if why_left_out(label, self.limits) is None]

    def summary(self) -> str:
        """Lines for the user: how much was kept, whose texts these are, what was left out and why, and where to look."""
        kept, speech = (sum(label.seconds for label in labels) for labels in (self.kept, self.labels))
        folder, manifest = self.prepared.manifest.parent, self.prepared.manifest
        splits = Counter(row.split for row in self.prepared.utterances)
        of_splits = f" ({', '.join(f'{n} {name}' for name, n in splits.most_common())})" if splits else ""
        before = f", {self.n_before} of them by an earlier run" if self.n_before else ""
        lines = [f"{manifest}: {counted(len(self.prepared.utterances), 'utterance')}{of_splits} of {len(self.labels)} "
                 f"segments, {_time(kept)} of {_time(speech)} of speech in {counted(len(self.ends), 'recording')}{before}"]
        lines += [f"  {sentence}" for sentence in self.notes()]
        for name, reasons in (("dropped", self.prepared.dropped_reasons),
                              ("problems", Counter(one.reason for one in self.prepared.problems))):
            if reasons:
                lines.append(f"{folder / name}.tsv: {sum(reasons.values())} listed")
                lines += [f"  {count:6d}  {reason}" for reason, count in reasons.most_common(SHOWN)]
        return "\n".join([*lines, f"Look at what was kept and what was left out:  {folder / 'labels.html'}"])

    def notes(self) -> list[str]:
        """Sentences on whose texts these are, and what could not be checked."""
        model, second = self.made_by["model"], self.made_by["second"]
        other = f"the model {second}" if second else f"{model} on the same sound in faint noise"
        notes = [f"The texts were written by the model {model} and compared with those of {other}. Nobody has read them: every "
                 "row says so in labels.text_by."]
        if self.labels and all(label.language is None for label in self.labels):
            notes.append(f"The language was not checked, because {model} writes one language only.")
        if any(label.person is not None for label in self.labels) and all(label.in_step is None for label in self.labels):
            notes.append("Whether lips and sound are in step was not checked, because the detector knows only mouths that are "
                         "cut out with --mouth-crop avsr.")
        notes += self.prepared.unknown()
        splits = Counter(row.split for row in self.prepared.utterances)
        if self.n_drawn:
            notes.append(f"Split 'valid' has all segments of {counted(self.n_drawn, 'recording')}, drawn by recording.")
        elif splits["train"] and not splits["valid"]:
            notes.append("No utterance is in split 'valid', which avsr train needs: it is drawn by recording, from two or "
                         "more.  Add recordings, put some into a folder 'valid', or name another manifest in data.valid.")
        return notes

    def check(self) -> None:
        """Raises BadManifest if nothing was kept, or more recordings could not be read than `max_dropped` allows."""
        settings, manifest = self.prepared.settings, self.prepared.manifest
        unread = [end for end in self.ends if end.reason is not None]
        if not self.ends:
            raise BadManifest(f"{manifest}: there is no recording to label.  Check the folder that was named.")
        if not self.prepared.utterances:
            reasons = self.prepared.dropped_reasons.most_common(1)
            most = f", {reasons[0][1]} because of this: {reasons[0][0]}" if reasons else ""
            raise BadManifest(f"{manifest}: none of {len(self.labels)} segments was kept{most}.  dropped.tsv and labels.html "
                              "beside it show them; --min-confidence, --max-disagreement and --min-in-step move the limits "
                              "without another pass of the model.")
        if len(unread) > settings.max_dropped * len(self.ends):
            raise BadManifest(f"{manifest}: {len(unread)} of {counted(len(self.ends), 'recording')} could not be read (limit "
                              f"{settings.max_dropped:.0%}); what the others gave can be used.  dropped.tsv beside it lists "
                              "them with the reason; --max-dropped puts up with them.")


def _time(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 36_000 else f"{seconds / 3600:.1f} hours"
