"""Our active-speaker network, run by ONNX Runtime: one mouth and a sound in, an embedding of each per frame, and log-odds.

    mouths (T, 88, 88), seen (T,), mel power (4T, n_mels)  ->  encode  ->  video (E + 3, T), sound (E + 2, T)
    video, sound  ->  score  ->  log-odds (T,) that this mouth makes this sound in each frame
Beside the embeddings, E numbers a frame, are plain signals. The embeddings do not know of one another, so one pass serves all
lags between lips and sound. experiments/active_speaker trains the network (network.py) and writes its folder (export.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from avsr.errors import BadCheckpoint
from avsr.lips import MouthCropSettings
from avsr.runtime import import_onnxruntime
from avsr.schema import Between, InvalidValue, read_json, validate, validate_table

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DESCRIPTION, ENCODER, SCORER = "network.json", "encode.onnx", "score.onnx"      # files of a stored network
DIMS = "dims"                                               # in the description, and in what each graph says of itself
Width = Annotated[int, Between(1, 1024)]
Dilations = Annotated[tuple[Annotated[int, Between(1, 25)], ...], Between(1, 8)]
Scale = Annotated[float, Between(1e-3, 1e3)]


@dataclass(frozen=True)
class Dims:
    """Sizes of the network. channels: of the three convolutions over pixels; width: of both encoders; embedding: E;
    video_dilations, audio_dilations, head_dilations: frames between the 5 taps of each convolution over time; lags: the
    largest lag at which the head compares the embeddings; around: frames before and after each frame whose mean is subtracted
    from it, 0 for none; window: frames before and after each frame by whose mean and spread the signals are standardised."""

    n_mels: Width = 80
    channels: tuple[Width, Width, Width] = (24, 48, 64)
    width: Width = 96
    embedding: Width = 64
    head_width: Width = 64
    video_dilations: Dilations = (1, 1, 2)
    audio_dilations: Dilations = (1, 1, 2)
    head_dilations: Dilations = (1, 3, 6)
    lags: Annotated[int, Between(0, 100)] = 15
    around: Annotated[int, Between(0, 250)] = 25
    window: Annotated[int, Between(1, 250)] = 25

    @property
    def reach(self) -> int:
        """The number of frames before and after a frame that can influence its log-odds."""
        video = self.around + max(self.window, 2 * sum(self.video_dilations))
        sound = max(self.window, 2 * sum(self.audio_dilations))
        encoders = 2 + max(video, sound)                    # 2: of differences of frames, and of the first layers over sound
        return encoders + self.lags + 2 * sum(self.head_dilations)

    def written(self) -> str:
        """One line of JSON, by which a graph is known to belong to a description."""
        return json.dumps(asdict(self))


class ActiveSpeakerNetwork:
    """The network in a folder, on the CPU, in one thread.

    dims: its sizes. scale: by what a mean cosine is multiplied to become the logit of a lag. Each graph is loaded when it is
    first used. Raises BadCheckpoint, as do `encode` and `score`.
    """

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / DESCRIPTION)
        try:
            self.dims = Dims(**validate_table(Dims, about[DIMS], "dims."))
            self.scale = validate(about["scale"], Scale, "scale")
            mouth_crop = MouthCropSettings.from_dict(about["mouth_crop"])
        except (InvalidValue, KeyError, TypeError) as error:
            raise BadCheckpoint(f"{folder / DESCRIPTION}: {error} does not describe an active-speaker network.  Install avsr "
                                "again.") from error
        if differences := mouth_crop.differences(MouthCropSettings()):
            raise BadCheckpoint(f"{folder}: its mouths are cropped otherwise ({differences[0]}).  Install avsr again.")
        self._folder = folder

    def encode(self, mouths: np.ndarray, seen: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """T frames, encoded: video (E + 3, T) and sound (E + 2, T) float32.

        mouths: (T, 88, 88) uint8. seen: (T,) bool. power: (4T, n_mels) float32 in mel bands, see features.mel_power.
        """
        found = self._encoder.run(["video", "sound"], {"mouths": halved(mouths), "seen": seen, "power": power})
        return np.asarray(found[0]), np.asarray(found[1])

    def score(self, video: np.ndarray, sound: np.ndarray) -> np.ndarray:
        """What `encode` returned -> log-odds (T,) float32 that the mouth makes the sound in each frame."""
        return np.asarray(self._scorer.run(["scores"], {"video": video, "sound": sound})[0])

    def cosines(self, video: np.ndarray, sound: np.ndarray) -> np.ndarray:
        """How alike mouth and sound are in each frame, (T,) float32 in -1..1."""
        return (video[: self.dims.embedding] * sound[: self.dims.embedding]).sum(axis=0)

    @cached_property
    def _encoder(self) -> InferenceSession:
        return self._opened(self._folder / ENCODER)

    @cached_property
    def _scorer(self) -> InferenceSession:
        return self._opened(self._folder / SCORER)

    def _opened(self, path: Path) -> InferenceSession:
        """A session of one of the graphs, which must be of this network."""
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The weights are stored in 8 bits and used in 32: they are converted once, here, and not in every run.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:                          # its errors have no common class but this
            reason = " ".join(str(error).split())[:200]
            raise BadCheckpoint(f"{path}: cannot be read as a network ({reason}).  Install avsr again.") from error
        if session.get_modelmeta().custom_metadata_map.get(DIMS) != self.dims.written():
            raise BadCheckpoint(f"{path}: its weights do not fit the dims in {DESCRIPTION}.  Install avsr again.")
        return session


def halved(mouths: np.ndarray) -> np.ndarray:
    """Mouths (..., 88, 88) uint8 -> (..., 44, 44) float32 in 0..1, as the encoder takes them: the mean of 2x2 pixels."""
    rows = np.add(mouths[..., 0::2, :], mouths[..., 1::2, :], dtype=np.uint16)
    return np.add(rows[..., 0::2], rows[..., 1::2], dtype=np.float32) / np.float32(4 * 255)
