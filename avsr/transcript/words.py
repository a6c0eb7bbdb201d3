"""Words, segments and transcripts: what was said, when, and by whom. All times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Phone:
    """A speech sound of a word, by its name in ARPAbet without stress, as in CMUdict: `IY`, `SH`."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Word:
    """One word. As in Whisper, `text` includes the space before the word, so that all words joined are the text.

    phones: in order, where they were asked for. interpolated: whether the word of a given text was not found in the recording,
    so that its times only lie between those of its neighbours, see avsr.align.
    """

    text: str
    start: float
    end: float
    confidence: float | None = None                         # 0 to 1
    speakers: tuple[str, ...] | None = None                 # as in Segment
    phones: tuple[Phone, ...] = ()
    interpolated: bool = False

    @property
    def speaker(self) -> str | None:
        """Who says it; of two at once the one who is heard best. None for nobody in sight, and where nobody asked."""
        return self.speakers[0] if self.speakers else None


@dataclass(frozen=True)
class LipsUse:
    """What the lips, read by a model of their own (`--lips`), had to do with a text.

    chosen: where the text comes from: `both` models wrote it, `sound` or `lips` alone, or `mixed`, words of both.
    share: of the lips in the weights of both, 0 to 1. by_sound, by_lips: what each would have written alone.
    """

    chosen: str
    share: float
    by_sound: str
    by_lips: str


@dataclass(frozen=True)
class Segment:
    """About a sentence. `words` is empty if no word was timed; a value that was not computed is None.

    speakers: names of those who say it, such as SPEAKER_00, first the one who is heard best; empty if nobody in sight says it,
    None if nobody asked who does. lips: of the text of which this is a part, None where no second model read them.
    corrected_from: the text of which this is a part as it was before `--correct`, None where that changed nothing.
    lips_reliability: how far the lips were believed, 0 to 1; None where they were not used, or the model does not say.
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()
    avg_logprob: float | None = None                        # natural logarithm, mean over the tokens
    compression_ratio: float | None = None                  # of the text by zlib; above 2.4 it repeats itself
    no_speech_prob: float | None = None                     # 0 to 1
    temperature: float = 0.0
    tokens: tuple[int, ...] = ()
    confidence: float | None = None                         # 0 to 1
    seek: int = 0                                           # log-mel column at which the speech segment began
    speakers: tuple[str, ...] | None = None
    lips: LipsUse | None = None
    corrected_from: str | None = None
    lips_reliability: float | None = None

    @property
    def speaker(self) -> str | None:
        """Who says it; of two at once the one who is heard best. None for nobody in sight, and where nobody asked."""
        return self.speakers[0] if self.speakers else None


@dataclass(frozen=True)
class Transcript:
    """The text of one recording, and how it was recognised."""

    text: str
    segments: tuple[Segment, ...]
    language: str                                           # two letters, as in ISO 639-1
    model: str
    modality: str                                           # "a", "v" or "av"
    modality_reason: str                                    # one sentence
    duration: float
    problems: tuple[str, ...] = ()                          # what the user should know, a sentence each
    task: str = "transcribe"                                # "translate" where the text is English, whatever `language` is said

    @property
    def words(self) -> tuple[Word, ...]:
        """Every timed word, in order."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of those who say a segment, in order; empty where nobody asked who speaks."""
        return tuple(sorted({part.speaker for part in self.segments if part.speaker is not None}))


def of_speaker(transcript: Transcript, speaker: str) -> Transcript:
    """What one speaker says, without labels. What two say at once is with the one who is heard best."""
    segments = tuple(replace(part, speakers=None, words=tuple(replace(word, speakers=None) for word in part.words))
                     for part in transcript.segments if part.speaker == speaker)
    return replace(transcript, text=" ".join(part.text.strip() for part in segments), segments=segments)
