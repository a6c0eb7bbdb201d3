"""`LiveRecogniser`: Clips in, as they come; words out, as soon as they will not change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avsr.checkpoint import Checkpoint
from avsr.media import Clip
from avsr.transcript import Transcript, Word


@dataclass(frozen=True)
class LiveSettings:
    """How to recognise live.

    step_s: seconds of new recording after which the text is looked at again. lips, speakers: as in transcribe.
    """

    step_s: float = 0.5
    speakers: bool = False


@dataclass(frozen=True)
class LiveUpdate:
    """What is known now.

    committed: the words that were committed by this update; they never change. pending: the words after all committed ones, as
    far as they are heard; each update gives them anew. end_s: seconds of the recording taken in. mouth: (96, 96) uint8 grey,
    the mouth that is watched, as it was at mouth_s seconds; None where none is seen. believed: how far the lips count, 0 to 1;
    None where they are not used, or the model does not say.
    """

    committed: tuple[Word, ...]
    pending: tuple[Word, ...]
    end_s: float
    mouth: np.ndarray | None = None
    mouth_s: float | None = None
    believed: float | None = None


class LiveRecogniser:
    """Recognises one recording while it is being made."""

    def __init__(self, checkpoint: Checkpoint, *, modality: str = "auto", language: str | None = None,
                 has_audio: bool = True, has_video: bool = True, settings: LiveSettings = LiveSettings()):
        """modality: a, v, av, or auto. has_audio, has_video: what the Clips will hold. Raises AvsrError for what the model
        cannot do."""
        raise NotImplementedError

    def add(self, clip: Clip) -> None:
        """The next piece of the recording, of any number of frames: its faces are followed, its speech is detected."""
        raise NotImplementedError

    @property
    def due(self) -> bool:
        """Whether enough is new that `update` should be called."""
        raise NotImplementedError

    def update(self) -> LiveUpdate:
        """Recognise what has come. It takes about 0.3 s of two cores, however long the recording is."""
        raise NotImplementedError

    def finish(self) -> LiveUpdate:
        """The recording has ended: all that is left is committed."""
        raise NotImplementedError

    def transcript(self) -> Transcript:
        """What was committed so far, in segments."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the face finder. Called by `with` as well."""
        raise NotImplementedError
