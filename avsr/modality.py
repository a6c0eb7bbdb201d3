"""By which senses a recording is transcribed: what was asked for, what the model can do, and what there is to hear and to see.

    modality asked for, Checkpoint, Recording -> `a`, `v` or `av`, and why
    how loud the sound is, whether speech was found -> what the user should know of it
"""

from __future__ import annotations

from avsr import media
from avsr.checkpoint import Checkpoint
from avsr.errors import AvsrError, BadMedia
from avsr.media.level import FLOOR_DB, decibels

GOES_BY = {"a": "sound alone", "v": "sight alone", "av": "sound and sight together"}


def check_modality(checkpoint: Checkpoint, modality: str) -> None:
    """Raises AvsrError where the model cannot go by it."""
    if modality == "v" and not checkpoint.video_trained:
        raise AvsrError(f"{checkpoint.name}: this model has no trained lips, so it cannot go by sight alone.  "
                        "Use --modality a or auto, or a model that has learnt to read lips.")
    able = checkpoint.model.modalities
    if modality not in ("auto", *able):
        raise AvsrError(f"{checkpoint.name}: this model goes by {GOES_BY[able[0]]}, not by {GOES_BY[modality]}.  Use "
                        f"--modality {able[0]} or auto, or another model.")


def decide(modality: str, checkpoint: Checkpoint, recording: media.Recording) -> tuple[str, str]:
    """The modality to use, `a`, `v` or `av`, and why, in a sentence. Raises BadMedia where nothing is left.

    A sound in which nobody can hear anything is none: what can be seen decides, and where nothing can, `a` finds no words.
    """
    sound, picture = recording.has_audio and not recording.is_silent, recording.has_video
    if checkpoint.modalities in (("v",), ("av",)):          # a published network that goes by nothing else
        (only,) = checkpoint.modalities
        lacks = "picture" if not picture else "sound" if "a" in only and not recording.has_audio else None
        if lacks is not None:
            raise BadMedia(f"{recording.name}: there is no {lacks} in it, and this model goes by {GOES_BY[only]}.  Use another "
                           "model for it, such as --model default.")
        return only, f"this model goes by {GOES_BY[only]}"
    readable = picture and checkpoint.video_trained and checkpoint.model.reliability is not None
    if recording.is_silent and (modality == "a" or not readable):
        return "a", "there is only silence in the recording's sound"
    if not sound and not (picture and checkpoint.video_trained):
        why = ("and this model has no trained lips" if picture else
               "and no picture was asked for" if modality == "a" else "and no picture either")
        raise BadMedia(f"{recording.name}: there is no sound in it, {why}.  Use a model that reads lips with --modality v, "
                       "or a recording with sound.")
    if modality == "v":
        return "v", "sight alone was asked for"
    if modality == "a":
        return "a", "sound alone was asked for"
    if not sound and checkpoint.model.reliability is None:
        raise BadMedia(f"{recording.name}: there is no sound in it, and this model cannot tell whether it knows the lips in "
                       "it.  Use --modality v to have them read all the same.")
    if not sound:
        return "v", "there is only silence in the recording's sound" if recording.is_silent else "the recording has no sound"
    if not checkpoint.video_trained and modality == "auto":
        return "a", "this model has no trained lips"
    if not picture:
        return "a", "the recording has no picture"
    return "av", "both were asked for" if modality == "av" else "the recording has both and the model reads lips"


def sound_problems(recording: media.Recording, used: str, *, level_db: float, n_pieces: int) -> list[str]:
    """What the user should know of a recording's sound: that it is silence, that it was amplified, that nobody speaks in it.

    used: the modality that was used. level_db: of the sound, as level.Loudness has it. n_pieces: of speech that were found.
    """
    name, level = recording.name, f"{level_db:.0f} dB of full scale at its loudest"
    if recording.is_silent:
        level = "its samples are all zero" if level_db <= FLOOR_DB else level
        done = "so it was taken as a recording without sound" if used == "v" else "so nothing was written"
        lips = ", or use --modality v to have the lips in it read" if recording.has_video and used != "v" else ""
        return [f"{name}: there is only silence in its sound ({level}), {done}.  Check which microphone or track was recorded"
                f"{lips}."]
    problems = []
    if recording.gain > 1:
        problems.append(f"{name}: its sound is very quiet ({level}), so it was amplified by "
                        f"{decibels(recording.gain**2):.0f} dB.")
    if n_pieces == 0:
        heard = "even so" if recording.gain > 1 else f"though its sound is not too quiet ({level})"
        problems.append(f"{name}: nobody speaks in it, as far as can be heard, {heard}.  Use --no-vad to take it all as "
                        "speech.")
    return problems
