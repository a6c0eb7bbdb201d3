"""Any recording of people talking to text with word times.

    path | bytes | arrays -> Recording -> StreamReader -> Windows -> Recogniser: encode, decode, align -> Segments -> Transcript
A recording is read in windows, so an hour needs no more memory than a minute. A thread reads ahead while the network works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from avsr import cropped, decode, media, selection
from avsr.checkpoint import Checkpoint, export_for, folder_of, load, may_use_video
from avsr.combine import CombinedCheckpoint, combine, open_recogniser
from avsr.errors import AvsrError, BadCheckpoint, BadMedia
from avsr.lips import MouthCropSettings
from avsr.lm import LanguageModel
from avsr.modality import VideoUse, check_modality, decide, sound_problems
from avsr.models.onnx import OnnxModel
from avsr.names import DEFAULT_MODEL, INPUT_MODALITIES
from avsr.runtime import Progress, no_progress, pick_device, pick_dtype, prefetch
from avsr.schema import from_keywords
from avsr.segment import VadOptions
from avsr.stream import StreamReader, StreamSettings
from avsr.text import LANGUAGE_NAMES, language_code
from avsr.transcribe.batches import SharedBatches
from avsr.transcribe.prompts import check_model, check_settings
from avsr.transcribe.transcriber import Transcriber
from avsr.transcript import Segment, Transcript

if TYPE_CHECKING:
    import torch

    from avsr.correct import Corrector


@dataclass(frozen=True)
class TranscribeSettings:
    """How to transcribe; what `avsr transcribe --help` lists under the same names.

    beam_size: texts kept in the search, 1 is greedy; None for what the model wants, which is 5 for most. ctc_weight: for
    models that have one, see decode.DecodeOptions. lm: the path of a language model, or an opened one, that counts with
    lm_weight in the search; rescore: likewise, on the n-best lists that the search finds. hotwords: a list, words with
    commas, or a file with one a line, see decode.Hotwords. batch_size: segments of up to 30 s that go through the network
    at once; None for 8, and for 4 with an export. temperature: the first of the temperatures tried, see
    decode.DecodeOptions. max_missing: share of a segment's frames that may lack a face before it is recognised by audio
    alone. vad: find speech first; without, all is taken as speech, cut into segments of up to 30 s. save_lips: a folder in
    which to write the mouth crops as a small video; or its .mp4 file. speakers: tell who of those in sight says each word,
    see transcript.Segment. speaker_model: by which network, see speakers.open_detector; None for the program's own.
    audio_track, video_track: which of several tracks to take, counted from 1; None for one with speech, and one with a
    face, see selection. mouth_crop: "none" takes each picture as the mouth, see cropped.py; None cuts it out as the model
    wants. task: "translate" writes English, whatever is spoken; for multilingual Whispers. initial_prompt: a text that
    could come before the recording, for its names and style; the first window is told it, with carry_initial_prompt every
    one. condition_on_previous_text: each window is told the text before it, and waits for it. See prompts.Prompts.
    """

    beam_size: int | None = None
    ctc_weight: float | None = None
    lm: str | Path | LanguageModel | None = None
    lm_weight: float | None = None
    rescore: str | Path | LanguageModel | None = None
    rescore_weight: float | None = None
    hotwords: str | Path | Sequence[str] | decode.Hotwords | None = None
    hotword_weight: float | None = None
    batch_size: int | None = None
    temperature: float = 0.0
    max_missing: float = 0.25
    vad: bool = True
    save_lips: str | Path | None = None
    speakers: bool = False
    speaker_model: str | Path | None = None
    audio_track: int | None = None
    video_track: int | None = None
    mouth_crop: str | None = None
    correct: str | Path | Corrector | None = None           # the folder of a corrector, or an opened one, see correct
    task: str = "transcribe"
    initial_prompt: str | None = None
    condition_on_previous_text: bool = False
    carry_initial_prompt: bool = False

    def __post_init__(self):
        check_settings(self)
        for name in ("beam_size", "batch_size", "audio_track", "video_track"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise AvsrError(f"{name} {getattr(self, name)}: must be at least 1.  Leave it out for the usual one.")
        if self.ctc_weight is not None and not 0 <= self.ctc_weight < 1:
            raise AvsrError(f"ctc_weight {self.ctc_weight}: must be from 0 to below 1.  Leave it out for the usual one.")
        decode.check_weights(self)
        if not 0 <= self.max_missing <= 1:
            raise AvsrError(f"max_missing {self.max_missing}: must be a share from 0 to 1.  The usual one is 0.25.")
        if self.mouth_crop not in (None, "none"):
            raise AvsrError(f"mouth_crop {self.mouth_crop!r}: only none can be asked for, where each picture is a mouth.  "
                            "Leave it out to have the mouth cut out as the model wants.")


def transcribe(source: media.Source | media.Clip, *, model: str | Path | Checkpoint = DEFAULT_MODEL,
               lips: str | Path | Checkpoint | None = None, modality: str = "auto", language: str | None = None,
               device: str = "auto", on_segment: Callable[[Segment], None] | None = None,
               progress: Progress = no_progress, shared: SharedBatches | None = None, **settings) -> Transcript:
    """See avsr.transcribe.transcribe."""
    options = from_keywords(TranscribeSettings, settings, "transcribe")
    if modality not in (choices := ("auto", *INPUT_MODALITIES)):
        raise AvsrError(f"modality {modality}: not known.  Use one of {', '.join(choices)}.")
    checkpoint = load_models(model, lips, modality, device, progress)
    language = language_of(checkpoint, language)
    check_modality(checkpoint, modality)
    check_search(checkpoint, options)
    check_model(checkpoint, modality, options)
    options = replace(options, **decode.open_external(options, checkpoint.tokenizer, progress))
    corrector = _open_corrector(options.correct)
    mouth_crop = checkpoint.mouth_crop if options.mouth_crop is None else cropped.as_they_are(checkpoint.mouth_crop)
    want_video = options.speakers or modality in ("v", "av") or (modality == "auto" and checkpoint.video_trained)
    track_language = language or (checkpoint.languages[0] if len(checkpoint.languages) == 1 else None)
    with media.reopenable(source, progress) as source, selection.open_recording(
            source, want_video=want_video, want_audio=modality != "v", audio_track=options.audio_track,
            video_track=options.video_track, language=track_language,
            landmarks=mouth_crop.face_landmarks) as recording:
        if options.speakers and not recording.has_video:
            raise BadMedia(f"{recording.name}: there is no picture in it, and --speakers tells from the picture who speaks.  "
                           "Leave out --speakers.")
        used, reason = decide(modality, checkpoint, recording)
        only_in_distribution = used == "v" and modality == "auto" and checkpoint.model.reliability is not None
        video_use = VideoUse(checkpoint, recording, used, max_missing=options.max_missing,
                             only_in_distribution=only_in_distribution)
        # With --modality v the sound is not read. With auto it may still tell where somebody speaks.
        vad = options.vad and (used != "v" or (modality == "auto" and recording.has_audio and not recording.is_silent))
        to_tell_speakers = MouthCropSettings() if options.speakers else None
        settings = StreamSettings(
            vad=vad, speech=speech_options(checkpoint), extension=vad and used == "av" and checkpoint.video_trained,
            speakers=options.speakers, speaker_model=options.speaker_model,
            save_lips=None if options.save_lips is None else Path(options.save_lips))
        reader = StreamReader(recording, mouth_crop if "v" in used else to_tell_speakers, settings, progress=progress)
        recogniser = open_recogniser(checkpoint, used)
        if corrector is not None:
            from avsr.correct import corrected

            recogniser = corrected(recogniser, corrector, used)
        transcriber = Transcriber(recogniser, used, language, options, video_use, shared)
        segments: list[Segment] = []
        for segment in transcriber.transcribe(prefetch(reader, 2 * transcriber.batch_size)):
            segments.append(segment)
            if on_segment is not None:
                on_segment(segment)
        problems = sound_problems(recording, used, level_db=reader.loudness.db, n_segments=video_use.n_segments)
        if "v" in used and mouth_crop.differences(checkpoint.mouth_crop):
            problems.append(cropped.of_unknown_kind(recording.name, checkpoint.name))
        used, reason, video_problems = video_use.outcome(reason)
        if used == "av" and isinstance(checkpoint, CombinedCheckpoint) and transcriber.language not in (
                known := checkpoint.lips.languages):
            used, reason = "a", f"{checkpoint.lips.name} reads lips in another language ({', '.join(known)})"
        speaker_problems = transcriber.speaker_names.problems(recording.name) if options.speakers else []
        return Transcript("".join(f" {segment.text}" for segment in segments).strip(), tuple(segments),
                          transcriber.language or "en", checkpoint.name, used, reason, reader.duration_s,
                          (*recording.problems, *problems, *video_problems, *speaker_problems,
                           *transcriber.prompts.problems(recording.name)), options.task)


def _open_corrector(asked: str | Path | Corrector | None) -> Corrector | None:
    """The corrector that was asked for. Only those who ask for one need torch for it."""
    if asked is None:
        return None
    from avsr.correct import open_corrector

    return open_corrector(asked)


def load_models(model: str | Path | Checkpoint, lips: str | Path | Checkpoint | None, modality: str,
                device: str | torch.device, progress: Progress = no_progress, *, kept_export: bool = False) -> Checkpoint:
    """The checkpoint for `transcribe`: of one model, or where `lips` names a second one that reads them, of both together.

    kept_export: whether a model on a processor may be replaced by the export that `avsr export` keeps of it, which is the same
    network and runs without torch.
    """
    if isinstance(model, Checkpoint) and isinstance(device, str) and not isinstance(model.model, OnnxModel):
        pick_device(device)                                  # a name that is no device is an error here as well
    if lips is None:
        return model if isinstance(model, Checkpoint) else load_model(model, modality, device, progress, kept_export)
    sound = model if isinstance(model, Checkpoint) else load_model(model, "a", device, progress)
    other = lips if isinstance(lips, Checkpoint) else load_model(lips, "v", device, progress)
    for one in (sound, other):
        if isinstance(one.model, OnnxModel):
            raise BadCheckpoint(f"{one.name}: an export, which --lips cannot join to another model.  Use the model that it was "
                                "made from.")
    both = combine(sound, other)
    return both.lips if modality == "v" else both


def load_model(model: str | Path, modality: str, device: str | torch.device, progress: Progress = no_progress,
               kept_export: bool = False) -> Checkpoint:
    """The checkpoint for `transcribe`, without its video encoder if no video will be used."""
    with_video = modality in ("v", "av") or (modality == "auto" and may_use_video(model))
    graphs = export_for(model, str(device))
    if graphs is not None and (kept_export or graphs == folder_of(model)):
        checkpoint = load(graphs, lips=with_video, device="cpu" if str(device) == "auto" else device, progress=progress)
        return checkpoint if graphs == folder_of(model) else replace(checkpoint, name=str(model))
    target = pick_device(device) if isinstance(device, str) else device
    return load(model, lips=with_video, device=target, dtype=pick_dtype(target), progress=progress)


def speech_options(checkpoint: Checkpoint) -> VadOptions:
    """How speech is cut into segments for a model: at each pause, unless it takes 30 s at a time, as Whisper does.

    Short segments would make that one slow, and what it leaves out of a long one is recognised again. 24 of GRID's valid clips
    one after another, model `grid`, WER by sound and lips: 86.8 % with pauses of up to 2 s within a segment, as it learnt from
    single sentences; 4.2 % if cut at each pause; 1.4 % for single clips.
    """
    usual = VadOptions()
    return usual if checkpoint.pad_seconds is not None else replace(usual, max_gap=usual.min_silence)


def language_of(checkpoint: Checkpoint, language: str | None) -> str | None:
    """The code of the language that was asked for. Raises AvsrError for one that the model does not write."""
    if language is None or language_code(language) in checkpoint.languages:
        return None if language is None else language_code(language)
    known = {word: code for code in checkpoint.languages for word in (code, LANGUAGE_NAMES.get(code, code))}
    if not language.strip():
        raise AvsrError(f"{checkpoint.name}: the language asked for is empty; the model writes {len(checkpoint.languages)}.  "
                        f"Leave --language out, or use one, such as {checkpoint.languages[0]}.")
    nearest = known[get_close_matches(language.lower(), known, 1, 0)[0]]
    more = "" if len(checkpoint.languages) > 1 else ", or a multilingual model such as --model base"
    raise AvsrError(f"{checkpoint.name}: does not write language {language!r}; it knows {len(checkpoint.languages)}.  "
                    f"Use {nearest} ({LANGUAGE_NAMES.get(nearest, nearest)}){more}.")


def check_search(checkpoint: Checkpoint, options: TranscribeSettings) -> None:
    """Raises AvsrError for a setting that would have no effect."""
    joint_ctc = checkpoint.model.joint_ctc
    if joint_ctc and options.temperature:
        raise AvsrError(f"{checkpoint.name}: its texts are searched, not drawn by chance, so it has no temperature.  Leave out "
                        "--temperature.")
    if not joint_ctc and options.ctc_weight is not None:
        raise AvsrError(f"{checkpoint.name}: its CTC, if any, spells letters, which cannot be weighed against its tokens.  "
                        "Leave out --ctc-weight, or use an imported model.")
