"""Active speaker detection: one person's mouth and the sound in, a score per frame out.

    mouths (T, 96, 96) uint8, sound (S,) float32 -> scores (T,) float32;  lag scores (2 max_lag + 1,) float32

The network sees a long recording in pieces with the frames around them that matter, so memory is flat, and the scores do not
depend on where the pieces end.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avsr.lips import MouthCropSettings
from avsr.rates import FEATURES_PER_FRAME, MOUTH_INPUT, N_FFT, SAMPLES_PER_FRAME, VIDEO_FPS

if TYPE_CHECKING:
    from torch import Tensor

    from avsr.speakers.network import ActiveSpeakerNetwork

SHIPPED = Path(__file__).parents[1] / "weights" / "active_speaker"       # the network that comes with the program
PIECE = 20 * VIDEO_FPS                                      # frames that are encoded at once: 90 MB of memory


class ActiveSpeakerDetector:
    """Tells whether a mouth makes the sound that is heard just then.

    folder: of a network of ours, with network.json and model.safetensors; without it, the one that comes with the program. It
    is loaded when it is first used, on the CPU. mouth_crop: the crops that it takes.
    """

    mouth_crop = MouthCropSettings()

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = SHIPPED if folder is None else Path(folder)

    @property
    def network(self) -> ActiveSpeakerNetwork:
        """The network, which is loaded once per process. Raises BadCheckpoint."""
        return _loaded(self._folder)

    def scores(self, images: np.ndarray, audio: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
        """Log-odds (T,) float32 that this mouth makes this sound in each frame; above 0 it does.

        images: (T, 96, 96) uint8, 25 a second. audio: (S,) float32 at 16 kHz, which begins with the first frame; where it ends
        before the last frame, silence follows. missing: (T,) bool: frames without a mouth, which score -inf. Raises
        BadCheckpoint if the network cannot be loaded.
        """
        import torch

        seen = np.ones(len(images), bool) if missing is None else ~missing
        scores = np.full(len(images), -np.inf, np.float32)
        reach = self.network.dims.reach
        for start in range(0, len(images), PIECE):
            stop = min(start + PIECE, len(images))
            low, high = max(0, start - reach), min(stop + reach, len(images))
            if seen[start:stop].any():
                with torch.inference_mode():
                    video, sound = self._encode(images[low:high], audio, seen[low:high], low)
                    scores[start:stop] = self.network(video, sound)[0, start - low : stop - low].numpy()
        return np.where(seen, scores, np.float32(-np.inf))

    def lag_scores(self, images: np.ndarray, audio: np.ndarray, max_lag: int, missing: np.ndarray | None = None) -> np.ndarray:
        """Log-probability (2 max_lag + 1,) float32 that the lips are k frames late, for k from -max_lag to max_lag, if they are
        out of step by one of these lags and this mouth makes the sound.

        It follows from the mean similarity of mouth and sound at each lag. The other arguments are as in `scores`. A lag that
        leaves no frame in which a mouth is seen scores -inf.
        """
        import torch

        seen = np.ones(len(images), bool) if missing is None else ~missing
        sums, counts = np.zeros((2, 2 * max_lag + 1))
        margin = self.network.dims.reach + max_lag
        for start in range(0, len(images), PIECE):
            stop = min(start + PIECE, len(images))
            low, high = max(0, start - margin), min(stop + margin, len(images))
            use = np.zeros(high - low, bool)
            use[start - low : stop - low] = seen[start:stop]
            if use.any():
                with torch.inference_mode():
                    video, sound = self._encode(images[low:high], audio, seen[low:high], low)
                    _add_lags(self.network.cosines(video, sound)[0].numpy(), use, sums, counts)
        curve = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf) * self.network.scale.exp().item()
        return (curve - np.logaddexp.reduce(curve) if counts.any() else curve).astype(np.float32)

    def _encode(self, images: np.ndarray, audio: np.ndarray, seen: np.ndarray, first: int) -> tuple[Tensor, Tensor]:
        """The frames, encoded (1, N, T), from number `first` on, and the sound beside them, encoded."""
        import torch

        from avsr.features import mel_power

        edge = (images.shape[-1] - MOUTH_INPUT) // 2
        mouths = torch.from_numpy(np.ascontiguousarray(images[:, edge : edge + MOUTH_INPUT, edge : edge + MOUTH_INPUT]))
        video = self.network.video(mouths[None].float() / 255, torch.from_numpy(seen)[None])
        before = min(first, -(-N_FFT // SAMPLES_PER_FRAME))  # frames of sound, so that the first window is as in the whole
        start, n_samples = (first - before) * SAMPLES_PER_FRAME, (before + len(images) + 1) * SAMPLES_PER_FRAME
        part = audio[start : start + n_samples]
        samples = torch.zeros(n_samples)
        samples[: len(part)] = torch.from_numpy(np.ascontiguousarray(part, np.float32))
        power = mel_power(samples, self.network.dims.n_mels)
        here = slice(before * FEATURES_PER_FRAME, (before + len(images)) * FEATURES_PER_FRAME)
        return video, self.network.audio(power[None, here])


def _add_lags(cosines: np.ndarray, use: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:
    """Add the cosines (T of the mouth, T of the sound) of the frames in `use`, at each lag at which there is sound for them."""
    n_frames, max_lag = len(cosines), len(sums) // 2
    for i, lag in enumerate(range(-max_lag, max_lag + 1)):
        if abs(lag) < n_frames:
            here = use[max(0, lag) : n_frames + min(0, lag)]               # frames of the mouth that have sound
            sums[i] += cosines.diagonal(-lag)[here].sum()
            counts[i] += here.sum()


@lru_cache(maxsize=2)
def _loaded(folder: Path) -> ActiveSpeakerNetwork:
    from avsr.speakers.network import load

    return load(folder)
