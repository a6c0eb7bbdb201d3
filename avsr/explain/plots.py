"""Plots of an explanation, with time from left to right and the words above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from avsr.explain.attention import CTC_MODALITY, greedy_letters
from avsr.explain.summary import Explanation
from avsr.features import log_mel
from avsr.html.plot import BOTH, FAINT, INK, MODALITY_COLOURS, SOUND, VIDEO, file_bytes, plot_style, svg_element
from avsr.lips import centre
from avsr.names import MODALITY_NAMES, escape_controls
from avsr.rates import FEATURE_RATE, MEMORY_RATE, SAMPLE_RATE, VIDEO_FPS
from avsr.text import CTC_LETTERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from avsr.explain.ablations import ScoredWord
    from avsr.explain.input import Input
    from avsr.lips import Mouths

# Of the insides of heat maps, which are seen through: between those of the light and of the dark page.
RGB = {SOUND: (0.27, 0.57, 0.86), VIDEO: (0.91, 0.56, 0.16), BOTH: (0.10, 0.58, 0.48)}
RED = (1.0, 0.16, 0.10)
WIDTH, PER_SECOND = 9.2, 1.0                                # inches: of a page, and at least for a second
LEFT, RIGHT, BOTTOM = 0.95, 0.15, 0.42                      # inches around what is drawn
THUMBNAIL, LETTER = 0.74, 0.078                             # inches of a mouth in the strip, and of a letter
LONGEST_LABEL = 13                                          # letters of a word
RANGE = math.log(1000)                                      # of CTC's log-probabilities that is shown, in nats


class Plot(NamedTuple):
    """An SVG element. width: inches at which its letters have their size.  left, right: where its time axis begins and ends, as
    shares of the width."""

    svg: str
    width: float
    left: float
    right: float


class PlacedWord(Protocol):
    """A word and its time in seconds from the start of the segment."""

    @property
    def text(self) -> str:
        """The word."""
        ...

    @property
    def start(self) -> float:
        """Where it begins."""
        ...

    @property
    def end(self) -> float:
        """Where it ends."""
        ...


def draw_plots(result: Explanation) -> dict[str, Plot]:
    """The plots that there is something to draw for, by name."""
    given, words, attention = result.given, result.ablations.words, result.attention
    duration_s, figures = given.segment.duration_s, {}
    with plot_style(**{"axes.grid": False, "ytick.labelsize": 8, "xtick.labelsize": 8}):
        if words:
            figures["shares"] = shares_figure(words, duration_s, sound=given.sound is not None, video=given.mouths is not None)
        if mels := log_mels(given):
            figures["audio"] = audio_figure(mels, attention.get("audio"), words, duration_s)
        if given.mouths is not None:
            pixels = None if result.saliency is None else result.saliency.pixels
            figures["video"] = video_figure(given.mouths, pixels, attention.get("video"), words)
            if pixels is not None:
                figures["mouth"] = mouth_figure(given.mouths, pixels)
        if result.ctc:
            figures["letters"] = letters_figure(result.ctc, words, duration_s)
        return {name: make_plot(name, figure) for name, figure in figures.items()}


def draw_combined_plots(given: Input, words: Sequence[PlacedWord], log_probs: np.ndarray | None,
                        entropy: np.ndarray | None) -> dict[str, Plot]:
    """The plots of two models that share nothing but scores, by name. log_probs: (T, n_ctc) of CTC on the lips, None where its
    classes are not letters; entropy: (T,) of the same head, nats, None without one."""
    figures, duration_s = {}, given.segment.duration_s
    with plot_style(**{"axes.grid": False, "ytick.labelsize": 8, "xtick.labelsize": 8}):
        figures["audio"] = audio_figure(log_mels(given), None, words, duration_s)
        if given.mouths is not None:
            figures["video"] = video_figure(given.mouths, None, None, words)
        if entropy is not None:
            figures["lips"] = lips_figure(log_probs, entropy, words, duration_s)
        return {name: make_plot(name, figure) for name, figure in figures.items()}


def log_mels(given: Input) -> dict[str, np.ndarray]:
    """Log-mels (columns, n_mels) of the sound by name, without noise and with it; none without sound."""
    if given.sound is None or given.clean is None:
        return {}
    sounds = {"sound": given.sound} if given.noise is None else {"as recorded": given.clean, "in noise": given.sound}
    return {name: log_mel(sound) for name, sound in sounds.items()}


def make_plot(name: str, figure: Figure) -> Plot:
    """A figure as it goes into the page."""
    width = figure.get_figwidth()
    return Plot(svg_element(file_bytes(figure, "svg", dpi=160), name), width, LEFT / width, 1 - RIGHT / width)


def time_figure(heights: Sequence[float], duration_s: float, words: Sequence[PlacedWord], gap: float = 0.12) -> Figure:
    """Axes one below the other on one time axis with the words above them and lines where they begin. heights, gap: inches."""
    from matplotlib.figure import Figure

    width = max(WIDTH, LEFT + RIGHT + PER_SECOND * duration_s)
    inner = width - LEFT - RIGHT
    spans = [(inner / duration_s * (word.start + word.end) / 2, LETTER * (len(word.text) + 1) / 2) for word in words]
    turned = any(middle - half < before + its_half for (before, its_half), (middle, half) in pairwise(spans))
    longest = max((len(short(word.text)) for word in words), default=0)
    below = sum(heights) + gap * (len(heights) - 1) + BOTTOM
    height = below + (0.2 + 0.055 * longest if turned else 0.3 if words else 0.14)
    figure = Figure(figsize=(width, height))
    for one in heights:
        axis = figure.add_axes((LEFT / width, (below - one) / height, inner / width, one / height))
        axis.set_xlim(0, duration_s)
        axis.tick_params(axis="x", labelbottom=False, length=0)
        for place in [word.start for word in words] + [word.end for word in words[-1:]]:
            axis.axvline(place, color=FAINT, linewidth=0.6 if len(words) <= 20 else 0.3, zorder=3)
        below -= one + gap
    figure.axes[-1].tick_params(axis="x", labelbottom=True, length=3)
    figure.axes[-1].set_xlabel("seconds")
    at = -math.inf
    for word in words:
        at = max((word.start + min(word.end, duration_s)) / 2, at + (0.14 * duration_s / inner if turned else 0))
        figure.axes[0].annotate(short(word.text), (at, 1), (0, 4), xycoords=("data", "axes fraction"), va="bottom",
                                ha="left" if turned else "center", rotation=50 if turned else 0, rotation_mode="anchor",
                                textcoords="offset points", annotation_clip=False, fontsize=9)
    return figure


def short(text: str) -> str:
    """A word that fits beside a row. Controls, which SVG may not hold, are spelt out."""
    text = escape_controls(text)
    return text if len(text) <= LONGEST_LABEL else text[:LONGEST_LABEL - 1] + "…"


def tick_step(low: float, high: float) -> float:
    """Nats between ticks: the logarithm of a round factor, for at most six ticks."""
    factors = (1.1, 1.2, 1.5, 2, 5, 10, 100, 1e3, 1e4, 1e6, 1e8, 1e10)
    return next((math.log(one) for one in factors if (high - low) / math.log(one) <= 6), math.log(1e12))


def times(nats: float) -> str:
    """A difference of log-probabilities as a factor: ×10, ÷2, with powers of ten from a thousand on."""
    factor = math.exp(abs(nats))
    sign = "×" if nats >= 0 else "÷"
    if factor < 1.005:
        return "×1"
    if factor < 999:
        return f"{sign}{factor:.3g}" if factor < 9.5 else f"{sign}{factor:.0f}"
    return f"{sign}10" + str(round(abs(nats) / math.log(10))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def shares_figure(words: Sequence[ScoredWord], duration_s: float, *, sound: bool, video: bool) -> Figure:
    """Each word's Shapley shares of sound and video as bars at the time of the word: above the line what makes it likelier."""
    figure = time_figure([2.1], duration_s, words)
    (axis,) = figure.axes
    for word in words:
        up = down = 0.0
        middle, width = (word.start + word.end) / 2, max(0.03, (word.end - word.start) * 0.86)
        for value, colour in [(word.shares.sound, SOUND)] * sound + [(word.shares.video, VIDEO)] * video:
            axis.bar(middle, value, width, bottom=up if value > 0 else down, color=colour, linewidth=0, zorder=2)
            up, down = up + max(value, 0.0), down + min(value, 0.0)
        if sound and video:
            axis.plot([middle], [word.shares.total], "o", markersize=4.5, color=INK, zorder=4)
    axis.axhline(0, color=INK, linewidth=0.8, zorder=3)
    low, high = min(axis.get_ylim()[0], -0.1), max(axis.get_ylim()[1], 0.1) * 1.08
    step = tick_step(low, high)
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    axis.set_yticks(ticks, [times(one) for one in ticks])
    axis.set(ylim=(low, high), ylabel="chance of the word")
    return figure


def audio_figure(mels: Mapping[str, np.ndarray], weights: np.ndarray | None, words: Sequence[PlacedWord],
                 duration_s: float) -> Figure:
    """Log-mels (columns, n_mels) by name, one above the other, and below them the attention to the audio (W, S)."""
    from librosa import hz_to_mel

    figure = time_figure([1.25] * len(mels) + _row_heights(weights, words), duration_s, words)
    low, high = min(one.min() for one in mels.values()), max(one.max() for one in mels.values())
    for axis, (name, mel) in zip(figure.axes, mels.items(), strict=False):
        axis.imshow(mel.T, origin="lower", aspect="auto", extent=(0, len(mel) / FEATURE_RATE, 0, mel.shape[1]), cmap="magma",
                    vmin=low, vmax=high)
        ticks = np.array([float(hz_to_mel(hertz)) for hertz in (250, 1000, 2000, 4000)]) / float(hz_to_mel(SAMPLE_RATE / 2))
        axis.set_yticks(mel.shape[1] * ticks, ["250 Hz", "1 kHz", "2 kHz", "4 kHz"])
        axis.set(xlim=(0, duration_s), ylabel=name)
    _draw_attention(figure, weights, words, SOUND)
    return figure


def _row_heights(weights: np.ndarray | None, words: Sequence[PlacedWord]) -> list[float]:
    """Inches of the axes of attention, if there are any."""
    return [] if weights is None or not len(words) else [(0.24 if len(words) <= 12 else 0.17) * len(words)]


def _draw_attention(figure: Figure, weights: np.ndarray | None, words: Sequence[PlacedWord], colour: str) -> None:
    """A row per word in the last axes, each as a share of its own strongest; boxes where the word is said."""
    if weights is None or not len(words):
        return
    axis, strength = figure.axes[-1], weights / np.maximum(weights.max(axis=1, keepdims=True), 1e-12)
    _draw_map(axis, strength, colour)
    for row, word in enumerate(words):
        axis.plot([word.start, word.end, word.end, word.start, word.start], np.array([0.06, 0.06, 0.94, 0.94, 0.06]) + row,
                  color=INK, linewidth=0.7, zorder=4)
    axis.set_yticks(np.arange(len(words)) + 0.5, [short(word.text) for word in words])
    axis.set(xlim=figure.axes[0].get_xlim(), ylim=(len(words), 0))
    axis.tick_params(axis="y", length=0, labelsize=8 if len(words) <= 12 else 7)


def _draw_map(axis: Axes, strength: np.ndarray, colour: str) -> None:
    """Strengths (rows, S) from 0 to 1 as more or less of a colour."""
    image = np.zeros((*strength.shape, 4))
    image[..., :3], image[..., 3] = RGB[colour], strength
    axis.imshow(image, aspect="auto", extent=(0, strength.shape[1] / MEMORY_RATE, len(strength), 0), interpolation="nearest")


def video_figure(mouths: Mouths, pixels: np.ndarray | None, weights: np.ndarray | None,
                 words: Sequence[PlacedWord]) -> Figure:
    """A strip of mouths; the same with the saliency (pixels (T, 88, 88)) laid over; the sum of each frame; the attention to the
    video (W, S)."""
    n_frames = len(mouths.images)
    heights = [THUMBNAIL, *([] if pixels is None else [THUMBNAIL, 0.6]), *_row_heights(weights, words)]
    figure = time_figure(heights, n_frames / VIDEO_FPS, words, gap=0.08)
    edges = np.linspace(0, n_frames, max(1, round((figure.get_figwidth() - LEFT - RIGHT) / THUMBNAIL)) + 1)
    _draw_strip(figure.axes[0], mouths, edges, None)
    figure.axes[0].set_ylabel("mouth")
    if pixels is not None:
        strength = smooth_saliency(pixels)
        overlays = saliency_colours(np.stack([strength[int(low):max(int(low) + 1, int(high))].mean(axis=0)
                                              for low, high in pairwise(edges)]))
        _draw_strip(figure.axes[1], mouths, edges, overlays)
        figure.axes[1].set_ylabel("what\nmatters")
        axis, sums = figure.axes[2], pixels.sum(axis=(1, 2), dtype=np.float64)
        axis.bar((np.arange(n_frames) + 0.5) / VIDEO_FPS, sums, 0.9 / VIDEO_FPS, color=VIDEO, linewidth=0, zorder=2)
        axis.axhline(0, color=INK, linewidth=0.6)
        axis.set(yticks=[], ylabel="by frame")
    _draw_attention(figure, weights, words, VIDEO)
    return figure


def _draw_strip(axis: Axes, mouths: Mouths, edges: np.ndarray, overlays: np.ndarray | None) -> None:
    """One mouth for each stretch between edges (frames), with an overlay (N, 88, 88, 4) for each or without."""
    for i, (low, high) in enumerate(pairwise(edges)):
        frame = min(int((low + high) / 2), len(mouths.images) - 1)
        extent = (low / VIDEO_FPS, high / VIDEO_FPS, 0, 1)
        axis.imshow(centre(mouths.images[frame]), cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto",
                    alpha=0.3 if mouths.missing[frame] else 1.0)
        if mouths.missing[frame]:
            axis.text((extent[0] + extent[1]) / 2, 0.5, "no face", ha="center", va="center", fontsize=7)
        elif overlays is not None:
            axis.imshow(overlays[i], extent=extent, aspect="auto")
    axis.set(xlim=(0, len(mouths.images) / VIDEO_FPS), ylim=(0, 1), yticks=[])


def smooth_saliency(pixels: np.ndarray) -> np.ndarray:
    """How much each place matters, for or against: contributions (T, 88, 88) -> (T, 88, 88) >= 0. They are blurred by 2 pixels
    before the sign goes, as neighbouring pixels of a gradient cancel much of each other."""
    from scipy.ndimage import gaussian_filter

    return np.abs(gaussian_filter(pixels.astype(np.float64), (0, 2, 2)))


def saliency_colours(strength: np.ndarray) -> np.ndarray:
    """(N, 88, 88), on one scale -> colours (N, 88, 88, 4): clear up to the median, red at the top."""
    low, high = np.quantile(strength, [0.5, 0.995])
    out = np.zeros((*strength.shape, 4))
    out[..., :3], out[..., 3] = RED, 0.85 * np.clip((strength - low) / max(high - low, 1e-12), 0, 1)
    return out


def mouth_figure(mouths: Mouths, pixels: np.ndarray) -> Figure:
    """The mean mouth, plain and with the saliency (pixels (T, 88, 88)), mean over all frames."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.3))
    for i in range(2):
        axis = figure.add_axes((0.01 + 0.5 * i, 0.02, 0.48, 0.96))
        axis.imshow(centre(mouths.images[~mouths.missing]).mean(axis=0), cmap="gray", vmin=0, vmax=255)
        axis.axis("off")
    axis.imshow(saliency_colours(smooth_saliency(pixels).mean(axis=0, keepdims=True))[0])
    return figure


def letters_figure(log_probs: Mapping[str, np.ndarray], words: Sequence[PlacedWord], duration_s: float) -> Figure:
    """CTC log-probabilities (S, n_ctc) by name: a row per letter, the greedy reading written over it."""
    figure = time_figure([2.9] * len(log_probs), duration_s, words, gap=0.3)
    for axis, (name, one) in zip(figure.axes, log_probs.items(), strict=True):
        _draw_letters(axis, one, MODALITY_COLOURS[CTC_MODALITY[name]])
        axis.set(xlim=(0, duration_s), ylabel=MODALITY_NAMES[CTC_MODALITY[name]].long)
    return figure


def lips_figure(log_probs: np.ndarray | None, entropy: np.ndarray, words: Sequence[PlacedWord], duration_s: float) -> Figure:
    """CTC on the lips: its letters (T, n_ctc), unless None, and below them its entropy (T,) in nats at each moment."""
    figure = time_figure([0.9] if log_probs is None else [2.9, 0.9], duration_s, words)
    if log_probs is not None:
        _draw_letters(figure.axes[0], log_probs, VIDEO)
        figure.axes[0].set(xlim=(0, duration_s), ylabel="lips")
    axis = figure.axes[-1]
    moments = (np.arange(len(entropy)) + 0.5) * duration_s / len(entropy)
    axis.fill_between(moments, entropy, color=VIDEO, alpha=0.5, linewidth=0)
    axis.plot(moments, entropy, color=VIDEO, linewidth=1)
    axis.set(xlim=(0, duration_s), ylim=(0, max(1.0, float(entropy.max()) * 1.05)), ylabel="entropy\n(nats)")
    return figure


def _draw_letters(axis: Axes, log_probs: np.ndarray, colour: str) -> None:
    """A row per letter, and the greedy reading over it."""
    _draw_map(axis, np.clip(1 + log_probs.T / RANGE, 0, 1), colour)
    for position, letter in greedy_letters(log_probs):
        if letter > 1:
            axis.text((position + 0.5) / MEMORY_RATE, letter + 0.5, CTC_LETTERS[letter - 1], ha="center", va="center",
                      fontsize=8, fontweight="bold", zorder=5)
    axis.set_yticks(np.arange(log_probs.shape[1]) + 0.5, ["–", "␣", *CTC_LETTERS[1:]][:log_probs.shape[1]])
    axis.tick_params(axis="y", length=0, labelsize=6.5)
