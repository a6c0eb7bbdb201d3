"""Labels: what a recogniser wrote for a segment of a recording and what was measured of it; limits decide what is kept.

    Label, LabelLimits -> None (kept), or why it is left out;  a Label that is kept -> Utterance
Nobody has read these texts. The limits were chosen on GRID's clips, see experiments/pseudo_labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from avsr.decode.limits import compression_ratio
from avsr.errors import AvsrError
from avsr.manifest import TimedWord, Utterance
from avsr.prepare.crop import no_faces
from avsr.rates import SEGMENT_SECONDS, frames_to_seconds
from avsr.text import LANGUAGE_NAMES, language_code

LOOPS = 2.4                           # a text that compresses better than this repeats itself, as in Whisper


@dataclass(frozen=True)
class LabelLimits:
    """What a segment must pass to be kept; `avsr prepare --help` lists the options under the same names.

    min_confidence: the least mean confidence of its words, 0 to 1. min_word_confidence: the least confidence of any word.
    max_disagreement: the largest word error rate, 0 to 1, of the second pass against the first. min_in_step: the least mean
    log-odds that the mouth makes the sound, see speakers.ActiveSpeakerDetector: 2.4 and more in 8 segments of GRID, at most 0.5
    with another's sound. min_seconds, max_seconds: of the segment. language: its code or English name; None takes the language
    that is detected in most of the first segments of each recording. max_missing: largest share of frames without a face.
    max_still: largest share of frames in which the mouth does not move. min_rate, max_rate: letters and digits of the text a
    second: GRID's speakers reach 10, fast talkers 25.
    """

    min_confidence: float = 0.8
    min_word_confidence: float = 0.5
    max_disagreement: float = 0.0
    min_in_step: float = 1.0
    min_seconds: float = 0.8
    max_seconds: float = float(SEGMENT_SECONDS)
    language: str | None = None
    max_missing: float = 0.25
    max_still: float = 0.25
    min_rate: float = 2.0
    max_rate: float = 30.0

    def __post_init__(self) -> None:
        for name in ("min_confidence", "min_word_confidence", "max_missing", "max_still"):
            if not 0 <= getattr(self, name) <= 1:
                raise AvsrError(f"{name} {getattr(self, name)}: must be a share from 0 to 1.  Leave it out for the usual one.")
        if not 0 <= self.min_seconds < self.max_seconds <= SEGMENT_SECONDS:
            raise AvsrError(f"min_seconds {self.min_seconds:g}, max_seconds {self.max_seconds:g}: the first must be below the "
                            f"second, and that at most {SEGMENT_SECONDS}.  Leave them out for the usual ones.")
        if self.language is not None and language_code(self.language) not in LANGUAGE_NAMES:
            raise AvsrError(f"language {self.language!r}: not known.  Use its code or English name, such as de or German.")

    @property
    def code(self) -> str | None:
        """The code of the language that is asked for."""
        return None if self.language is None else language_code(self.language)


@dataclass(frozen=True)
class Label:
    """A segment of a recording: where it is, who is seen in it, and what the recogniser wrote.

    media: path of the recording, relative to the manifest. name: its path in the corpus, without suffix. start_frame,
    end_frame: 25 a second, the end is not included.
    person: number of the person whose mouth was chosen, None where nobody is seen or mouths are not wanted.
    missing, still: shares of the frames without a face, and with a mouth that does not move; None where mouths are not wanted.
    in_step: mean log-odds that this mouth makes this sound; None where it was not measured.
    text, second: what the two passes wrote; None where the segment was left out before a pass. confidence, lowest: mean and
    minimum of the words', None without words. disagreement: word error rate of the second text against the first, None without
    words. language: its code, as detected in this segment alone; None where the model cannot tell. expected: the code that was
    asked for, or that of the recording. words: with times in seconds from the start of the segment.
    """

    media: str
    name: str
    start_frame: int
    end_frame: int
    person: int | None = None
    missing: float | None = None
    still: float | None = None
    in_step: float | None = None
    text: str | None = None
    second: str | None = None
    confidence: float | None = None
    lowest: float | None = None
    disagreement: float | None = None
    language: str | None = None
    expected: str = "en"
    words: tuple[TimedWord, ...] = ()

    @property
    def seconds(self) -> float:
        """The length of the segment."""
        return frames_to_seconds(self.end_frame - self.start_frame)

    @property
    def start_s(self) -> float:
        """Its start in the recording, in seconds."""
        return frames_to_seconds(self.start_frame)

    @property
    def id(self) -> str:
        """The id of its utterance."""
        return f"{self.name}@{self.start_s:.2f}"


def why_unlabelled(label: Label, limits: LabelLimits) -> str | None:
    """Why a segment is left out before it is recognised, which is the expensive part; None where it is to be recognised."""
    if not limits.min_seconds <= label.seconds <= limits.max_seconds:
        return f"length: {label.seconds:.2f} s (limits {limits.min_seconds:g} and {limits.max_seconds:g} s)"
    if label.missing is None:
        return None
    if (faceless := no_faces(label.missing, limits.max_missing)) is not None:
        return faceless
    if label.still is not None and label.still > limits.max_still:
        return f"still mouth: in {label.still:.0%} of the frames (limit {limits.max_still:.0%})"
    if label.in_step is not None and label.in_step < limits.min_in_step:
        return f"not in step: mouth and sound score {label.in_step:.1f} (limit {limits.min_in_step:g})"
    return None


def why_left_out(label: Label, limits: LabelLimits) -> str | None:
    """Why a segment is left out of the corpus: the kind of reason, a colon and the numbers. None where it is kept."""
    if (reason := why_unlabelled(label, limits)) is not None:
        return reason
    if not label.text or label.confidence is None or label.lowest is None or label.disagreement is None:
        return "no words: the recogniser wrote nothing"
    if label.language is not None and label.language != label.expected:
        return f"language: {label.language} was detected, {label.expected} is expected"
    if label.confidence < limits.min_confidence:
        return f"confidence: {label.confidence:.2f} (limit {limits.min_confidence:g})"
    if label.lowest < limits.min_word_confidence:
        return f"word confidence: {label.lowest:.2f} for one word (limit {limits.min_word_confidence:g})"
    if label.disagreement > limits.max_disagreement:
        return f"disagreement: {label.disagreement:.0%} of the words in the second pass (limit {limits.max_disagreement:.0%})"
    rate = sum(letter.isalnum() for letter in label.text) / label.seconds
    if not limits.min_rate <= rate <= limits.max_rate:
        return f"speech rate: {rate:.1f} letters a second (limits {limits.min_rate:g} and {limits.max_rate:g})"
    if compression_ratio(label.text) > LOOPS:
        return f"repeats itself: the text compresses to a {compression_ratio(label.text):.1f}th (limit {LOOPS:g})"
    return None


def utterance(label: Label, model: str) -> Utterance:
    """The row of the manifest, whose labels say that the text is a machine's. model: which wrote it.

    The speaker is a person of this recording only: faces are not compared between recordings.
    """
    assert label.text is not None
    assert label.confidence is not None
    facts = {"text_by": model, "text_confidence": f"{label.confidence:.2f}"}
    if label.in_step is not None:
        facts["in_step"] = f"{label.in_step:.1f}"
    speaker = label.name if label.person is None else f"{label.name}/{label.person}"
    return Utterance(label.id, label.media, label.text, speaker, split_of(label.name), label.expected, label.start_s,
                     frames_to_seconds(label.end_frame), label.words, facts)


def split_of(name: str) -> str:
    """The split of a recording: its first folder where that names one, else train."""
    from avsr.corpora.files import SPLITS

    first, *more = PurePosixPath(name).parts
    return SPLITS.get(first.lower(), "train") if more else "train"
