"""How mouths move: whether a mouth moves at all, and whether lips and sound are in step.

    mouths (T, 96, 96) uint8 -> movement, still or not, frozen frames (T,)
    mouths -> opening (T,);  sound (S,) float32 -> energy (T,);  both -> correlation at each lag
Of a single clip the correlation is weak evidence, of twenty clips of one speaker strong: see manifest/checks.py.
"""

from __future__ import annotations

import numpy as np

from avsr.rates import MOUTH_SIZE, SAMPLES_PER_FRAME, VIDEO_FPS

# Rows and columns of the crop, as shares of its side: the mouth with chin and cheeks, which move; the lips, which part.
MOVES = (slice(30 * MOUTH_SIZE // 96, 76 * MOUTH_SIZE // 96), slice(MOUTH_SIZE // 4, 3 * MOUTH_SIZE // 4))
PARTS = (slice(36 * MOUTH_SIZE // 96, 64 * MOUTH_SIZE // 96), slice(MOUTH_SIZE // 4, 3 * MOUTH_SIZE // 4))

# Movement is measured on BLOCKS x BLOCKS means of blocks of pixels, blurred once more, which hold little of a picture's noise.
BLOCKS = 24
LIPS = (slice(8, 18), slice(6, 18))                          # rows and columns of blocks: the lips and what is next to them
WINDOW, HOP = 36, 12                                         # frames over which movement is measured, and from one to the next
LEAST_FRAMES = VIDEO_FPS                                     # of a mouth, to say whether it moves
SMOOTHED, APART = 3, 4                                       # frames: a mean of so many, compared with that so much later
FLOOR = 0.15                                                 # grey levels of change that the coding of a still picture makes
FROZEN = 0.0125                                              # of the crop's contrast: change within 160 ms, RMS over a second
FEWEST = 10                                                  # frames of which it can be said whether they are frozen
# Movement under which a mouth is still, chosen on GRID's train and valid clips: the least of their 897 is 1.47; of 196 of them
# made small, dark, noisy, blurred or of 25 kbit/s two have under 1.21 (1.20, and 0.86 where nobody could read the lips). Of 218
# photographs that shake, zoom, flicker or are noisy, and mouths under a square, four have more, 1.31 at most. Reported, not
# chosen by: 94 test and unseen clips have 1.6 and more, 12 of 13 other recordings 1.58 and more; one is of a singer behind a
# microphone (0.96 to 1.17), whose lips are not seen.
STILL = 1.1
NEAR = 1                                                     # frames by which lips may be early or late and still be in step


def movement(images: np.ndarray, missing: np.ndarray | None = None) -> float | None:
    """How much the lips change compared with the rest of the crop, in the 1.44 s in which they do so most.

    images: (T, 96, 96) uint8 crops of one mouth; missing: (T,) bool, frames that do not count. None where under 1 s is seen.
    What a photograph of the mean mouth shows when it is moved, turned, bent or lit otherwise is taken from each frame first.
    """
    seen = images if missing is None else images[~missing]
    if len(seen) < LEAST_FRAMES:
        return None
    small = _blocks(seen)
    starts = range(0, max(1, len(small) - WINDOW + 1), HOP)
    return max(_lips_to_face(small[start : start + WINDOW]) for start in starts)


def motionless(images: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """(T, 96, 96) uint8, (T,) bool -> (T,) bool: frames of a mouth that cannot be speaking: all that are seen where it never
    moves, as in a photograph or under a cover, else those that are frozen."""
    most = movement(images, missing)
    if most is not None and most < STILL:
        return np.ones(len(images), bool) if missing is None else ~missing
    return frozen(images, missing)


def in_sync(images: np.ndarray, sound: np.ndarray, there: np.ndarray) -> float:
    """Correlation in -1..1 of a mouth (T, 96, 96) uint8 with its sound (S,), over the frames that are `there` (T,) bool."""
    loud = energy(sound, len(images))
    return float(correlations(mouth_opening(images[there]), loud[there], NEAR).max())


def frozen(images: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """(T, 96, 96) uint8, (T,) bool -> (T,) bool: frames within a second in which the lips do not change at all, as where a
    camera or a connection stopped. Frames that are missing are never among them, nor those of a mouth seen for under 0.4 s."""
    out = np.zeros(len(images), bool)
    seen = np.arange(len(images)) if missing is None else np.flatnonzero(~missing)
    if len(seen) < FEWEST:
        return out
    small = _blocks(images[seen])
    change = _change(small)[:, *LIPS].mean(axis=(1, 2))
    n = max(1, min(LEAST_FRAMES - (len(seen) - len(change)), len(change)))
    sums = np.cumsum(np.r_[0, change])
    for start in np.flatnonzero(sums[n:] - sums[:-n] <= n * (FROZEN * float(small.mean(axis=0).std())) ** 2):
        out[seen[start : start + n + len(seen) - len(change)]] = True
    return out


def _blocks(images: np.ndarray) -> np.ndarray:
    """(T, H, W) uint8 -> (T, BLOCKS, BLOCKS) float32; what does not fill a block at the edge is left out."""
    n_frames, side = len(images), min(images.shape[1:]) // BLOCKS
    cut = images[:, : side * BLOCKS, : side * BLOCKS].reshape(n_frames, BLOCKS, side, BLOCKS, side)
    small = sum(cut[:, :, i, :, j].astype(np.float32) for i in range(side) for j in range(side)) / side**2
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
    columns = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    return (columns[:, :-2] + 2 * columns[:, 1:-1] + columns[:, 2:]) / 4


def _change(small: np.ndarray) -> np.ndarray:
    """(T, BLOCKS, BLOCKS) -> (T - SMOOTHED - APART + 1, BLOCKS, BLOCKS): squared change, in grey levels, within 160 ms."""
    sums = np.cumsum(np.pad(small, ((1, 0), (0, 0), (0, 0))), axis=0, dtype=np.float64)
    means = (sums[SMOOTHED:] - sums[:-SMOOTHED]) / SMOOTHED
    return np.square(means[APART:] - means[:-APART])


def _lips_to_face(small: np.ndarray) -> float:
    """(T, BLOCKS, BLOCKS) -> change of the lips divided by that of the rest of the crop; see `movement`."""
    change = _change(small - _as_a_photograph(small)).mean(axis=0)
    lips = np.zeros(change.shape, bool)
    lips[LIPS] = True
    return float(np.sqrt(change[lips].mean()) / (np.sqrt(change[~lips].mean()) + FLOOR))


def _as_a_photograph(small: np.ndarray) -> np.ndarray:
    """(T, BLOCKS, BLOCKS) -> what a photograph of the mean frame comes nearest to each frame with.

    Least squares of the mean (light), the mean's first derivatives times polynomials of the place (moved, turned, scaled,
    sheared, bent) and its second derivatives (moved by more than a small part of a block). Without the blur and the second
    derivatives a photograph of an open mouth in a shaking hand comes to 1.7, as much as some talkers.
    """
    mean = small.mean(axis=0)
    down, right = np.gradient(mean)
    (down_down, down_right), right_right = np.gradient(down), np.gradient(right)[1]
    y, x = np.mgrid[-1 : 1 : BLOCKS * 1j, -1 : 1 : BLOCKS * 1j].astype(np.float32)
    terms = [mean, down_down, down_right, right_right]
    terms += [place * slope for place in (np.ones_like(x), x, y, x * x, x * y, y * y) for slope in (right, down)]
    terms = np.stack([term / max(float(np.sqrt(np.square(term).sum())), 1e-6) for term in terms]).astype(np.float64)
    # By einsum, which keeps to one thread: matrices as small as these made a BLAS with two threads wait ten times as long.
    products = np.einsum("iyx,jyx->ij", terms, terms) + 1e-6 * np.eye(len(terms))
    weights = np.linalg.solve(products, np.einsum("iyx,tyx->it", terms, small))
    return np.einsum("it,iyx->tyx", weights, terms)


def mouth_opening(images: np.ndarray) -> np.ndarray:
    """(T, 96, 96) uint8 -> (T,) float32: how much the mouth moves plus how dark its middle is, each as a z-score.

    Motion alone puts GRID's s4 6 frames early (he moves his lips before he speaks), darkness alone s1 5 frames late and
    s31 10 early; their sum has its peak at 0 for each of the four speakers looked at (s1, s4, s26, s31).
    """
    if len(images) < 2:
        return np.zeros(len(images), np.float32)
    face = images[:, *MOVES].astype(np.float32)
    face -= face.mean(axis=(1, 2), keepdims=True)            # flicker is no motion
    change = np.abs(np.diff(face, axis=0)).mean(axis=(1, 2))
    motion = (np.r_[change[:1], change] + np.r_[change, change[-1:]]) / 2
    dark = -np.percentile(images[:, *PARTS].reshape(len(images), -1), 10, axis=1)
    return (_standard(motion) + _standard(dark)).astype(np.float32)


def energy(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """(S,) -> (n_frames,) float32: square root of each video frame's RMS; 0 beyond the sound's end."""
    whole = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    whole[: len(audio)] = audio[: len(whole)]
    return np.square(whole.reshape(n_frames, SAMPLES_PER_FRAME)).mean(axis=1) ** 0.25


def correlations(opening: np.ndarray, energy: np.ndarray, max_lag: int) -> np.ndarray:
    """(T,), (T,) -> (2 max_lag + 1,) float64 in -1..1: of lips `k` frames after the sound, for k from -max_lag on.

    Zeros where either does not change, or the two are too short for that lag.
    """
    n = min(len(opening), len(energy))
    out = np.zeros(2 * max_lag + 1)
    for i, k in enumerate(range(-max_lag, max_lag + 1)):
        if n - abs(k) < 3:
            continue
        lips = np.asarray(opening[max(0, k): n + min(0, k)], np.float64)
        sound = np.asarray(energy[max(0, -k): n + min(0, -k)], np.float64)
        lips, sound = lips - lips.mean(), sound - sound.mean()
        spread = np.sqrt((lips @ lips) * (sound @ sound))
        out[i] = lips @ sound / spread if spread > 1e-9 else 0.0
    return out


def lag(opening: np.ndarray, energy: np.ndarray, max_lag: int) -> tuple[int, float]:
    """(T,), (T,) -> frames by which the lips come after the sound (below 0: before it), and the correlation there."""
    return peak(correlations(opening, energy, max_lag))


def peak(curve: np.ndarray) -> tuple[int, float]:
    """Lag in frames and height of the highest point of what `correlations` gives; of equals that nearest to 0."""
    middle = len(curve) // 2
    best = max(range(len(curve)), key=lambda i: (curve[i], -abs(i - middle)))
    return best - middle, float(curve[best])


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std() + 1e-6)
