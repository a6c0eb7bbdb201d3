"""Pictures of an explanation: arrays and words in, SVG out, with time from left to right.

    words, looks, log-mels, mouths, saliency, CTC  ->  SVG text whose colours are the page's, in light and in dark
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from avsr.explain.canvas import BOTH, INK, RGB, SIGHT, SOUND, Picture, TimeFigure, draw, short, tick_step, times
from avsr.explain.looks import letters
from avsr.rates import FEATURE_RATE, MEMORY_RATE, MOUTH_INPUT, SAMPLE_RATE, VIDEO_FPS
from avsr.text import CTC_LETTERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from avsr.explain.passes import SharedWord
    from avsr.lips import Mouths

THUMB = 0.74                                                # inches of a mouth in the strip
RED = (1.0, 0.16, 0.10)
RANGE = math.log(1000)                                      # of CTC's log-probabilities that is shown, in nats


def shares_picture(words: Sequence[SharedWord], duration_s: float, *, sound: bool, sight: bool) -> Picture:
    """Each word's Shapley shares of sound and sight as bars at the time of the word: above the line what makes it likelier."""
    figure = TimeFigure([2.1], duration_s, words)
    axis = figure.axes[0]
    for word in words:
        up = down = 0.0
        middle, width = (word.start + word.end) / 2, max(0.03, (word.end - word.start) * 0.86)
        for value, colour, there in ((word.shares.sound, SOUND, sound), (word.shares.sight, SIGHT, sight)):
            if not there:
                continue
            axis.bar(middle, value, width, bottom=up if value > 0 else down, color=colour, linewidth=0, zorder=2)
            up, down = up + max(value, 0.0), down + min(value, 0.0)
        if sound and sight:
            axis.plot([middle], [word.shares.total], "o", markersize=4.5, color=INK, zorder=4)
    axis.axhline(0, color=INK, linewidth=0.8, zorder=3)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.1), max(high, 0.1) * 1.08)
    step = tick_step(*axis.get_ylim())
    ticks = [i * step for i in range(math.ceil(axis.get_ylim()[0] / step), math.floor(axis.get_ylim()[1] / step) + 1)]
    axis.set_yticks(ticks, [times(one) for one in ticks])
    axis.set_ylabel("chance of the word", fontsize=8, color=INK)
    return figure.picture("shares", "Bars: what sound and sight are worth for each word")


def heard_picture(mels: dict[str, np.ndarray], weights: np.ndarray | None, words: Sequence[SharedWord],
                  duration_s: float) -> Picture:
    """Log-mels (columns, n_mels) by name, one above the other, and below them where the sound was looked at for each word,
    weights (W, S)."""
    rows = [] if weights is None or not len(words) else [_row_height(len(words)) * len(words)]
    figure = TimeFigure([1.25] * len(mels) + rows, duration_s, words)
    low, high = min(one.min() for one in mels.values()), max(one.max() for one in mels.values())
    for axis, (name, mel) in zip(figure.axes, mels.items(), strict=False):
        span = len(mel) / FEATURE_RATE
        axis.imshow(mel.T, origin="lower", aspect="auto", extent=(0, span, 0, mel.shape[1]), cmap="magma", vmin=low, vmax=high)
        axis.set_xlim(0, duration_s)
        _frequencies(axis, mel.shape[1])
        axis.set_ylabel(name, fontsize=8, color=INK)
    if rows:
        _look_rows(figure.axes[-1], weights, words, SOUND, duration_s)
    return figure.picture("heard", "Spectrogram of the sound, and where the model listens for each word")


def _row_height(n_rows: int) -> float:
    return 0.24 if n_rows <= 12 else 0.17


def _frequencies(axis: Axes, n_mels: int) -> None:
    from librosa import hz_to_mel

    hertz = (250, 1000, 2000, 4000)
    axis.set_yticks([float(hz_to_mel(one) / hz_to_mel(SAMPLE_RATE / 2)) * n_mels for one in hertz],
                    [f"{one} Hz" if one < 1000 else f"{one // 1000} kHz" for one in hertz])


def _look_rows(axis: Axes, weights: np.ndarray, words: Sequence[SharedWord], colour: str, duration_s: float) -> None:
    """A row per word, as strong as it was looked at, each row as a share of its own strongest; boxes where the word is said."""
    strength = weights / np.maximum(weights.max(axis=1, keepdims=True), 1e-12)
    image = np.zeros((*strength.shape, 4))
    image[..., :3], image[..., 3] = RGB[colour], strength
    axis.imshow(image, aspect="auto", extent=(0, strength.shape[1] / MEMORY_RATE, len(words), 0), interpolation="nearest")
    for row, word in enumerate(words):
        axis.plot([word.start, word.end, word.end, word.start, word.start], [row + 0.06, row + 0.06, row + 0.94, row + 0.94,
                                                                             row + 0.06], color=INK, linewidth=0.7, zorder=4)
    axis.set_xlim(0, duration_s)
    axis.set_ylim(len(words), 0)
    axis.set_yticks(np.arange(len(words)) + 0.5, [short(word.text) for word in words])
    axis.tick_params(axis="y", length=0, labelsize=8 if len(words) <= 12 else 7)


def seen_picture(mouths: Mouths, pixels: np.ndarray | None, weights: np.ndarray | None, words: Sequence[SharedWord]) -> Picture:
    """A strip of mouths; the same with what matters to the text (pixels (T, 88, 88)) laid over; how much each frame says;
    where the lips were looked at for each word, weights (W, S)."""
    duration_s = len(mouths.images) / VIDEO_FPS
    has_rows, has_pixels = weights is not None and len(words) > 0, pixels is not None
    heights = [THUMB, *([THUMB, 0.6] * has_pixels), *([_row_height(len(words)) * len(words)] * has_rows)]
    figure = TimeFigure(heights, duration_s, words, gap=0.08)
    n_thumbs = max(1, round(figure.inner / THUMB))
    edges = np.linspace(0, len(mouths.images), n_thumbs + 1)
    said = weight(pixels) if has_pixels else None
    for row, axis in enumerate(figure.axes[:1 + has_pixels]):
        overlays = None if row == 0 else overlay(np.stack([
            said[int(low):max(int(low) + 1, int(high))].mean(axis=0) for low, high in pairwise(edges)]))
        _strip(axis, mouths, edges, overlays)
        axis.set_ylabel("mouth" if row == 0 else "what\nmatters", fontsize=8, color=INK)
    if has_pixels:
        _frame_bars(figure.axes[2], pixels)
    if has_rows:
        _look_rows(figure.axes[-1], weights, words, SIGHT, duration_s)
    return figure.picture("seen", "Strip of mouths, and where the model looks for each word")


def _strip(axis: Axes, mouths: Mouths, edges: np.ndarray, overlays: np.ndarray | None) -> None:
    """One mouth for each stretch between edges (frames), with an overlay (N, 88, 88, 4) for each or without."""
    for i, (low, high) in enumerate(pairwise(edges)):
        frame = min(int((low + high) / 2), len(mouths.images) - 1)
        extent = (low / VIDEO_FPS, high / VIDEO_FPS, 0, 1)
        image = centre(mouths.images[frame])
        strength = 0.3 if mouths.missing[frame] else 1.0
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", alpha=strength)
        if mouths.missing[frame]:
            axis.text((extent[0] + extent[1]) / 2, 0.5, "no face", ha="center", va="center", fontsize=7, color=INK)
        elif overlays is not None:
            axis.imshow(overlays[i], extent=extent, aspect="auto")
    axis.set_xlim(0, len(mouths.images) / VIDEO_FPS)
    axis.set_ylim(0, 1)
    axis.set_yticks([])


def centre(images: np.ndarray) -> np.ndarray:
    """The part of mouths (..., 96, 96) that the network sees, (..., 88, 88)."""
    edge = (images.shape[-1] - MOUTH_INPUT) // 2
    return images[..., edge:edge + MOUTH_INPUT, edge:edge + MOUTH_INPUT]


def weight(pixels: np.ndarray) -> np.ndarray:
    """How much is said where, for or against: contributions (T, 88, 88) -> (T, 88, 88) >= 0.

    Blurred by 2 pixels before the sign goes: neighbouring pixels of a gradient take back much of what each other say.
    """
    from scipy.ndimage import gaussian_filter

    return np.abs(gaussian_filter(pixels.astype(np.float64), (0, 2, 2)))


def overlay(weights: np.ndarray) -> np.ndarray:
    """(N, 88, 88), on one scale -> colours (N, 88, 88, 4): clear up to the median, red at the top."""
    low, high = np.quantile(weights, [0.5, 0.995])
    out = np.zeros((*weights.shape, 4))
    out[..., :3], out[..., 3] = RED, 0.85 * np.clip((weights - low) / max(high - low, 1e-12), 0, 1)
    return out


def _frame_bars(axis: Axes, pixels: np.ndarray) -> None:
    """What each frame adds, in nats."""
    sums = pixels.sum(axis=(1, 2), dtype=np.float64)
    at = (np.arange(len(sums)) + 0.5) / VIDEO_FPS
    axis.bar(at, sums, 0.9 / VIDEO_FPS, color=SIGHT, linewidth=0, zorder=2)
    axis.axhline(0, color=INK, linewidth=0.6)
    axis.set_yticks([])
    axis.set_ylabel("by frame", fontsize=8, color=INK)


def mouth_picture(mouths: Mouths, pixels: np.ndarray) -> Picture:
    """The mean mouth, plain and with what matters to the text (pixels (T, 88, 88)), mean over all frames."""
    from matplotlib.figure import Figure

    mean = centre(mouths.images[~mouths.missing]).mean(axis=0)
    figure = Figure(figsize=(4.6, 2.3))
    for i in range(2):
        axis = figure.add_axes((0.01 + 0.5 * i, 0.02, 0.48, 0.96))
        axis.imshow(mean, cmap="gray", vmin=0, vmax=255)
        if i:
            axis.imshow(overlay(weight(pixels).mean(axis=0, keepdims=True))[0])
        axis.axis("off")
    about = "The mean mouth, and which parts of it matter to the text"
    return Picture("mouth", draw(figure, "mouth", about), 4.6)


def letters_picture(log_probs: dict[str, np.ndarray], words: Sequence[SharedWord], duration_s: float) -> Picture:
    """CTC log-probabilities (S, n_ctc) by name: a row per letter, the surest reading written over it."""
    colours = {"audio": SOUND, "video": SIGHT, "fused": BOTH}
    names = {"audio": "sound alone", "video": "lips alone", "fused": "both"}
    figure = TimeFigure([2.9] * len(log_probs), duration_s, words, gap=0.3)
    rows = ["–", "␣", *CTC_LETTERS[1:]]
    for axis, (name, one) in zip(figure.axes, log_probs.items(), strict=True):
        image = np.zeros((one.shape[1], len(one), 4))
        image[..., :3], image[..., 3] = RGB[colours[name]], np.clip(1 + one.T / RANGE, 0, 1)
        axis.imshow(image, aspect="auto", extent=(0, len(one) / MEMORY_RATE, one.shape[1], 0), interpolation="nearest")
        for position, letter in letters(one):
            if letter > 1:
                axis.text((position + 0.5) / MEMORY_RATE, letter + 0.5, CTC_LETTERS[letter - 1], ha="center", va="center",
                          fontsize=8, color=INK, fontweight="bold", zorder=5)
        axis.set_xlim(0, duration_s)
        axis.set_yticks(np.arange(one.shape[1]) + 0.5, rows[:one.shape[1]])
        axis.tick_params(axis="y", length=0, labelsize=6.5)
        axis.set_ylabel(names[name], fontsize=8, color=INK)
    return figure.picture("letters", "Letters over time, as strong as they are read")
