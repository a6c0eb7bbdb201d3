"""Active speaker detection: one person's mouth and the sound in, a score per frame out.

    mouths (T, 96, 96) uint8, sound (S,) float32 -> scores (T,) float32;  lag scores (2 max_lag + 1,) float32

The network sees a long recording in pieces with the frames around them that matter, so memory is flat, and the scores do not
depend on where the pieces end.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from avsr.features import mel_power
from avsr.lips import MouthCropSettings
from avsr.rates import FEATURES_PER_FRAME, MOUTH_INPUT, N_FFT, SAMPLES_PER_FRAME, VIDEO_FPS
from avsr.speakers.network import ActiveSpeakerNetwork

SHIPPED = Path(__file__).parents[1] / "weights" / "active_speaker"       # the network that comes with the program
# Frames by which lips may be late, or below 0 sound: viewers notice sound from 45 ms early or 125 ms late on (ITU-R BT.1359).
UNNOTICED = (-3, -2, -1, 0, 1)
CLEARLY = 1.0                                               # difference of log-probabilities of two lags
PIECE = 20 * VIDEO_FPS                                      # frames that are encoded at once: 90 MB of memory


class ActiveSpeakerDetector:
    """Tells whether a mouth makes the sound that is heard just then.

    folder: of a network of ours, see network.py; without it, the one that comes with the program. It
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
        before the last frame, silence follows. missing: (T,) bool: frames without a mouth, which score -inf. Lips and sound may
        be out of step by UNNOTICED frames throughout. Raises BadCheckpoint if the network cannot be loaded.
        """
        seen = np.ones(len(images), bool) if missing is None else ~missing
        scores = np.full(len(images), -np.inf, np.float32)
        if not seen.any():
            return scores
        reach = self.network.dims.reach
        video, sound = self._encode(images, audio, seen)
        sound = _moved(sound, self._unnoticed_lag(video, sound, seen))
        for start in range(0, len(images), PIECE):
            here = slice(max(0, start - reach), start + PIECE + reach)
            found = self.network.score(video[:, here], sound[:, here])[start - here.start :]
            scores[start : start + PIECE] = found[:PIECE]
        return np.where(seen, scores, np.float32(-np.inf))

    def lag_scores(self, images: np.ndarray, audio: np.ndarray, max_lag: int, missing: np.ndarray | None = None) -> np.ndarray:
        """Log-probability (2 max_lag + 1,) float32 that the lips are k frames late, for k from -max_lag to max_lag, if they are
        out of step by one of these lags and this mouth makes the sound.

        It follows from the mean similarity of mouth and sound at each lag. The other arguments are as in `scores`. A lag that
        leaves no frame in which a mouth is seen scores -inf.
        """
        seen = np.ones(len(images), bool) if missing is None else ~missing
        curve = np.full(2 * max_lag + 1, -np.inf)
        if seen.any():
            video, sound = self._encode(images, audio, seen)
            lags = range(-max_lag, max_lag + 1)
            curve = np.array([_mean_cosine(self.network, video, sound, seen, lag) for lag in lags])
            curve = curve * self.network.scale
            curve -= np.logaddexp.reduce(curve)
        return curve.astype(np.float32)

    def _unnoticed_lag(self, video: np.ndarray, sound: np.ndarray, seen: np.ndarray) -> int:
        """The most likely of all lags if it is one of UNNOTICED and clearly more likely than 0; else 0."""
        lags = range(-self.network.dims.lags, self.network.dims.lags + 1)
        curve = {lag: _mean_cosine(self.network, video, sound, seen, lag) for lag in lags}
        best = max(curve, key=lambda lag: (curve[lag], -abs(lag)))
        clear = (curve[best] - curve[0]) * self.network.scale > CLEARLY
        return best if best in UNNOTICED and clear else 0

    def _encode(self, images: np.ndarray, audio: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All frames, and the sound beside them, encoded (N, T): half a kilobyte for each frame."""
        videos, sounds, reach = [], [], self.network.dims.reach
        for start in range(0, len(images), PIECE):
            low, stop = max(0, start - reach), min(start + PIECE, len(images))
            video, sound = self._encode_piece(images[low : stop + reach], audio, seen[low : stop + reach], low)
            videos.append(video[:, start - low : stop - low])
            sounds.append(sound[:, start - low : stop - low])
        return np.concatenate(videos, axis=1), np.concatenate(sounds, axis=1)

    def _encode_piece(self, images: np.ndarray, audio: np.ndarray, seen: np.ndarray,
                      first: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames from number `first` on, and the sound beside them, encoded (N, T)."""
        edge = (images.shape[-1] - MOUTH_INPUT) // 2
        mouths = np.ascontiguousarray(images[:, edge : edge + MOUTH_INPUT, edge : edge + MOUTH_INPUT])
        before = min(first, -(-N_FFT // SAMPLES_PER_FRAME))  # frames of sound, so that the first window is as in the whole
        start, n_samples = (first - before) * SAMPLES_PER_FRAME, (before + len(images) + 1) * SAMPLES_PER_FRAME
        part = audio[start : start + n_samples]
        samples = np.zeros(n_samples, np.float32)
        samples[: len(part)] = part
        power = mel_power(samples, self.network.dims.n_mels)
        here = slice(before * FEATURES_PER_FRAME, (before + len(images)) * FEATURES_PER_FRAME)
        return self.network.encode(mouths, seen, power[here])


def _moved(sound: np.ndarray, lag: int) -> np.ndarray:
    """Encoded sound (N, T) as much later as the lips are late, so that both are in step; 0 where there is none."""
    n_frames = sound.shape[1]
    lag = max(-n_frames, min(lag, n_frames))
    return np.pad(sound, ((0, 0), (max(0, lag), max(0, -lag))))[:, max(0, -lag) : n_frames + max(0, -lag)]


def _mean_cosine(network: ActiveSpeakerNetwork, video: np.ndarray, sound: np.ndarray, seen: np.ndarray, lag: int) -> float:
    """How alike mouth and sound are with the lips `lag` frames late; -inf where no frame that is seen has sound then."""
    n_frames = len(seen)
    mouth = slice(max(0, lag), max(0, n_frames + min(0, lag)))
    heard = slice(max(0, -lag), max(0, n_frames + min(0, -lag)))
    use = seen[mouth]
    return float(network.cosines(video[:, mouth], sound[:, heard])[use].mean()) if use.any() else -np.inf


@lru_cache(maxsize=2)
def _loaded(folder: Path) -> ActiveSpeakerNetwork:
    return ActiveSpeakerNetwork(folder)
