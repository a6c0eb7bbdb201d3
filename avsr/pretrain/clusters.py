"""Acoustic clusters: the targets of pre-training, computed from clean sound alone.

    audio (S,) -> MFCC with deltas, four frames a video frame (T, 156) -> k-means -> the cluster of each video frame (T,)
The targets of HuBERT and AV-HuBERT in their first round (Hsu et al. 2021; Shi et al. 2022, arXiv 2201.02184). A frame's target
is the nearest of k centres,  z_t = argmin_k |x_t - c_k|^2,  so that sounds which are alike get one label, without any text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from avsr.dataset import ManifestRow, sound_of
from avsr.errors import BadCheckpoint, BadManifest
from avsr.manifest import TimedWord
from avsr.output import whole_file
from avsr.rates import SAMPLE_RATE, VIDEO_FPS, samples_to_frames
from avsr.runtime import Progress
from avsr.tensorfiles import read_safetensors

N_MFCC = 13
HOP = SAMPLE_RATE // 100                                    # samples: 10 ms
PER_FRAME = 100 // VIDEO_FPS                                # MFCC frames to a video frame
MIN_FRAMES = 3                                              # video frames: deltas need 9 MFCC frames


def acoustic_features(audio: np.ndarray) -> np.ndarray:
    """MFCC, deltas and delta-deltas of a sound (S,) float32, four frames side by side: (T, 156) float32, T video frames.

    Each coefficient has zero mean and unit variance over the utterance, so that a voice or a microphone is no cluster.
    """
    import librosa

    n_frames = samples_to_frames(len(audio))
    mfcc = librosa.feature.mfcc(y=audio, sr=SAMPLE_RATE, n_mfcc=N_MFCC, n_fft=400, hop_length=HOP)
    parts = np.concatenate([mfcc, librosa.feature.delta(mfcc), librosa.feature.delta(mfcc, order=2)]).T
    parts = (parts - parts.mean(axis=0)) / (parts.std(axis=0) + 1e-5)
    padded = np.pad(parts, ((0, max(0, n_frames * PER_FRAME - len(parts))), (0, 0)), mode="edge")
    return padded[:n_frames * PER_FRAME].reshape(n_frames, -1).astype(np.float32)


class Clusters:
    """The centres of the acoustic clusters, (k, 156) float32."""

    def __init__(self, centres: np.ndarray):
        self.centres = centres

    @classmethod
    def fit(cls, rows: Sequence[ManifestRow], k: int, *, seed: int, progress: Progress) -> Clusters:
        """k-means over the frames of these rows. Raises BadManifest where they have fewer frames than clusters."""
        from sklearn.cluster import MiniBatchKMeans

        found = []
        for number, row in enumerate(rows):
            progress("features for the clusters", number, len(rows), "utterances")
            if (audio := _long_enough(sound_of(row))) is not None:
                found.append(acoustic_features(audio))
        n_frames = sum(map(len, found))
        if n_frames < k:
            raise BadManifest(f"pre-training: {n_frames} frames of sound in {len(rows)} utterances, fewer than the {k} "
                              "clusters.  Prepare more clips with sound, or set pretrain.clusters lower.")
        means = MiniBatchKMeans(k, random_state=seed, batch_size=4096).fit(np.concatenate(found))
        return cls(np.asarray(means.cluster_centers_, np.float32))

    @classmethod
    def open(cls, path: Path) -> Clusters:
        """The clusters that `save` wrote. Raises BadCheckpoint."""
        tensors = read_safetensors(path)
        if "centres" not in tensors:
            raise BadCheckpoint(f"{path}: holds no cluster centres.  Delete it, and they are computed again.")
        return cls(tensors["centres"].numpy())

    def save(self, path: Path) -> None:
        """Write the centres as safetensors."""
        from safetensors.numpy import save_file

        with whole_file(path) as part:
            save_file({"centres": self.centres}, part)

    def of(self, audio: np.ndarray) -> np.ndarray:
        """The cluster of each video frame of a sound (S,): (T,) int64."""
        x = acoustic_features(audio)
        return ((self.centres ** 2).sum(axis=1) - 2 * x @ self.centres.T).argmin(axis=1)

    def label(self, row: ManifestRow) -> ManifestRow:
        """The row with runs of one cluster in place of its words, and without its text; without words where it has no sound."""
        audio = _long_enough(sound_of(row))
        words = None if audio is None else timed(self.of(audio))
        return replace(row, utterance=replace(row.utterance, text="", words=words))


def timed(labels: np.ndarray) -> tuple[TimedWord, ...]:
    """Labels of frames (T,) as words with times, one for each run of a label, as frame labels are made of: see dataset."""
    starts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist()]
    ends = [*starts[1:], len(labels)]
    return tuple(TimedWord(f"cluster {labels[start]}", start / VIDEO_FPS, end / VIDEO_FPS)
                 for start, end in zip(starts, ends, strict=True))


def _long_enough(audio: np.ndarray | None) -> np.ndarray | None:
    return audio if audio is not None and samples_to_frames(len(audio)) >= MIN_FRAMES else None
