"""LR-ASD, a published network that tells who speaks (Liao et al., IJCV 2025): faces and sound in, a score per frame out.

    faces (T, 112, 112) uint8 ─ visual encoder ─┐
    sound (S,) float32 ─ MFCC ─ audio encoder  ─┴─ fusion ─ two GRUs ─> scores (T,) float32

Written from a description of the network; its authors' code is not in it. The weights are not part of this program: a user
fetches them, see fetch/sources.py and importers/lr_asd.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.errors import BadCheckpoint
from avsr.lips import MouthCropSettings
from avsr.rates import FEATURES_PER_FRAME, HOP, N_FFT, SAMPLE_RATE, VIDEO_FPS, frames_to_samples
from avsr.tensorfiles import check_finite, misfit, read_header, read_safetensors

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"    # of the folder that `avsr import` writes
FACE_SIZE = 112                                             # pixels of the grey face that the network takes
GREY_MEAN, GREY_STD = 0.4161, 0.1688                        # of its authors' faces, in 0..1
CHANNELS = (1, 32, 64, 128)
NORM_EPSILON = 1e-3
# The authors cut a face by its detector's box: a square of 0.7 times the box's longer side whose centre is 0.2 times it below
# the box's. On our meshes of GRID (train and valid, 4 people) that square is 101 to 111 pixels wide in the mean face, and its
# centre is 1 to 9 pixels above the upper lip and within 10 beside it; so their square is the mouth crop, a little larger. What
# differs: the face is turned upright, the square's centre follows the upper lip and not the box, which grows with the jaw, and
# the picture is black beyond its edge where theirs is grey. Our mesh's box may be smaller than their detector's: of 3 scales on
# GRID's valid clips (1.17, 1.035, 0.9; 6 scenes of people who speak in turn) the widest view is best, 73, 81 and 86 % right.
SCALE = 0.9                                                 # pixels of the face for each pixel of the mean face
FACE_CROP = replace(MouthCropSettings(), size=FACE_SIZE,
                    reference=tuple((round(SCALE * x, 2), round(SCALE * y, 2)) for x, y in MouthCropSettings().reference))
# Each frame's score is the mean over pieces of so many seconds, into which the recording is cut from its start.
PIECE_SECONDS = (1, 2, 3, 4, 5, 6)
N_COEFFICIENTS, N_FILTERS, N_POINTS, PRE_EMPHASIS, LIFTER = 13, 26, 512, 0.97, 22


class LrAsdDetector:
    """Tells whether a face makes the sound, as ActiveSpeakerDetector does. mouth_crop: the crops that it takes.

    pieces: the recording is cut into pieces of so many seconds, for each number anew, and a frame's score is their mean.
    The authors use all six, which costs six passes; (6,) alone costs a sixth.
    """

    mouth_crop = FACE_CROP

    def __init__(self, network: LrAsd, pieces: Sequence[int] = PIECE_SECONDS) -> None:
        self.network, self.pieces = network.eval().requires_grad_(False), tuple(pieces)

    def scores(self, images: np.ndarray, audio: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
        """Scores (T,) float32, above 0 where this face makes this sound; -inf where it is missing.

        images: (T, 112, 112) uint8, 25 a second. audio: (S,) float32 at 16 kHz, which begins with the first frame.
        """
        coefficients = torch.from_numpy(mfcc(audio, len(images)))
        total = torch.zeros(len(images))
        for seconds in self.pieces:
            for start in range(0, len(images), seconds * VIDEO_FPS):
                here = slice(start, start + seconds * VIDEO_FPS)
                sound = coefficients[here.start * FEATURES_PER_FRAME : here.stop * FEATURES_PER_FRAME]
                total[here] += self._scores(self.encode(images[here]), sound)
        scores = (total / len(self.pieces)).numpy()
        return scores if missing is None else np.where(missing, np.float32(-np.inf), scores)

    def lag_scores(self, images: np.ndarray, audio: np.ndarray, max_lag: int, missing: np.ndarray | None = None) -> np.ndarray:
        """Mean score (2 max_lag + 1,) float32 with the lips k frames after the sound, for k from -max_lag to max_lag.

        The recording is taken as one piece. A lag that leaves no frame in which the face is seen scores -inf.
        """
        seen = np.ones(len(images), bool) if missing is None else ~missing
        coefficients = torch.from_numpy(mfcc(audio, len(images)))
        faces, n_frames = self.encode(images), len(images)
        out = np.full(2 * max_lag + 1, -np.inf, np.float32)
        for i, lag in enumerate(range(-max_lag, max_lag + 1)):
            first, last = max(0, lag), n_frames + min(0, lag)
            if last > first and seen[first:last].any():
                sound = coefficients[(first - lag) * FEATURES_PER_FRAME : (last - lag) * FEATURES_PER_FRAME]
                out[i] = self._scores(faces[:, first:last], sound).numpy()[seen[first:last]].mean()
        return out

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Tensor:
        """(T, 112, 112) uint8 -> (1, T, 128)."""
        assert images.shape[1:] == (FACE_SIZE, FACE_SIZE), images.shape
        return self.network.encode_faces(torch.from_numpy(images)[None].float())

    @torch.inference_mode()
    def _scores(self, faces: Tensor, coefficients: Tensor) -> Tensor:
        """(1, T, 128), (4T, 13) -> (T,)."""
        joined = self.network.join(self.network.encode_sound(coefficients[None]), faces)
        return self.network.out(joined)[0, :, 1]


class LrAsd(nn.Module):
    """The network. All its encoders keep the rate of 25 frames a second; audio has four MFCC frames for each."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.ModuleList(_visual_block(*pair) for pair in pairwise(CHANNELS))
        self.audio = nn.ModuleList(_audio_block(*pair) for pair in pairwise(CHANNELS))
        self.fusion = _Gate(256)
        self.forwards, self.backwards = nn.GRU(256, 64, batch_first=True), nn.GRU(256, 64, batch_first=True)
        self.gate = _Gate(128)
        self.out, self.visual_out = nn.Linear(128, 2), nn.Linear(128, 2)

    def encode_faces(self, faces: Tensor) -> Tensor:
        """(B, T, 112, 112) grey in 0..255 -> (B, T, 128)."""
        x = ((faces / 255 - GREY_MEAN) / GREY_STD)[:, None]
        for i, block in enumerate(self.visual):
            x = block(x) if i == 2 else F.max_pool3d(block(x), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        return x.amax(dim=(3, 4)).transpose(1, 2)

    def encode_sound(self, mfcc: Tensor) -> Tensor:
        """(B, 4T, 13) -> (B, T, 128)."""
        x = mfcc[:, None].transpose(2, 3)                   # (B, 1, 13, 4T)
        for i, block in enumerate(self.audio):
            x = block(x) if i == 2 else F.max_pool2d(block(x), (1, 3), (1, 2), (0, 1))
        return x.mean(dim=2).transpose(1, 2)

    def join(self, sound: Tensor, faces: Tensor) -> Tensor:
        """Both (B, T, 128) -> (B, T, 128), of which `out` makes two numbers: it speaks not, it speaks."""
        x = self.fusion(torch.cat([sound, faces], dim=2))
        there, _ = self.forwards(x)
        back, _ = self.backwards(x.flip(1))
        return self.gate(torch.cat([there, back.flip(1)], dim=2))


def load(folder: Path) -> LrAsdDetector:
    """The network in a folder that `avsr import` wrote, on the CPU. Raises BadCheckpoint."""
    network, path = LrAsd(), folder / WEIGHTS
    if wrong := misfit(network.state_dict(), read_header(path)):
        raise BadCheckpoint(f"{path}: these are not LR-ASD's weights (it {wrong}).  Import the file again.")
    weights = read_safetensors(path)
    check_finite(weights, path)
    network.load_state_dict(weights)
    return LrAsdDetector(network)


class _Gate(nn.Module):
    """(B, T, C) -> (B, T, C): each number times a number in 0..1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.norm = nn.Conv1d(width, width, 1, bias=False), nn.BatchNorm1d(width, eps=NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.norm(self.attention(x.transpose(1, 2))).sigmoid()
        return x * weights.transpose(1, 2)


def _visual_block(n_in: int, n_out: int) -> nn.Sequential:
    """Two convolutions within a frame, the first block's with stride 2, then two over time; each with a norm and ReLU."""
    widths, layers = [n_in, n_out // 2, n_out, n_out, n_out], []
    for i, kernel in enumerate([(1, 5, 5), (1, 3, 3), (5, 1, 1), (3, 1, 1)]):
        stride, padding = 2 if n_in == 1 and i == 0 else 1, (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        conv = nn.Conv3d(widths[i], widths[i + 1], kernel, (1, stride, stride), padding, bias=False)
        layers += [conv, nn.BatchNorm3d(widths[i + 1], eps=NORM_EPSILON), nn.ReLU()]
    return nn.Sequential(*layers)


def _audio_block(n_in: int, n_out: int) -> nn.Sequential:
    """Two convolutions over coefficients, then two over time; each with a norm and ReLU."""
    widths, layers = [n_in, n_out // 2, n_out, n_out, n_out], []
    for i, kernel in enumerate([(5, 1), (3, 1), (1, 5), (1, 3)]):
        conv = nn.Conv2d(widths[i], widths[i + 1], kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=False)
        layers += [conv, nn.BatchNorm2d(widths[i + 1], eps=NORM_EPSILON), nn.ReLU()]
    return nn.Sequential(*layers)


def mfcc(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """Sound (S,) float32 -> (4 n_frames, 13) float32: cepstral coefficients as python_speech_features defines them.

    16 kHz, windows of 25 ms each 10 ms without a taper, pre-emphasis, 26 triangular filters over mel between bins of 512
    points, logarithms, DCT, lifter; the first coefficient is the logarithm of the energy. Silence follows where the sound is
    shorter than the frames.
    """
    from scipy.fft import dct

    samples = np.zeros(frames_to_samples(n_frames) + N_FFT - HOP)
    samples[: len(audio)] = 32768 * audio[: len(samples)].astype(np.float64)     # theirs are 16-bit whole numbers
    samples[1:] -= PRE_EMPHASIS * samples[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::HOP]
    power = np.square(np.abs(np.fft.rfft(windows, N_POINTS))) / N_POINTS
    floor = np.finfo(float).eps
    bands = power @ _mel_filters().T
    cepstrum = np.asarray(dct(np.log(np.where(bands == 0, floor, bands)), norm="ortho"))[:, :N_COEFFICIENTS]
    cepstrum = cepstrum * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(N_COEFFICIENTS) / LIFTER))
    energy = power.sum(axis=1)
    cepstrum[:, 0] = np.log(np.where(energy == 0, floor, energy))
    return cepstrum.astype(np.float32)


def _mel_filters() -> np.ndarray:
    """(26, 257) float64: triangles whose corners lie evenly on the mel scale, moved to whole bins."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, N_FILTERS + 2) / 2595) - 1)
    corners = np.floor((N_POINTS + 1) * hertz / SAMPLE_RATE)
    bins = np.arange(N_POINTS // 2 + 1)
    low, middle, high = (corners[i : N_FILTERS + i, None] for i in range(3))
    rising = (bins - low) / np.maximum(middle - low, 1)
    falling = (high - bins) / np.maximum(high - middle, 1)
    return np.where((bins >= low) & (bins < middle), rising, np.where((bins >= middle) & (bins < high), falling, 0.0))
