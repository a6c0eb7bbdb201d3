"""Audio-visual synchrony: whether a mouth moves at all, and whether lips and sound are in sync.

    mouths (T, 96, 96) uint8 -> movement, motionless or not, frozen frames (T,)
    mouths -> opening (T,);  sound (S,) float32 -> energy (T,);  both -> correlation at each lag
The correlation of a single clip is weak evidence, that of twenty clips of one speaker is strong: see manifest/checks.py.
"""

from __future__ import annotations

import numpy as np

from avsr.rates import MOUTH_SIZE, SAMPLES_PER_FRAME, VIDEO_FPS

# Rows and columns of the crop, as shares of its side: the mouth with chin and cheeks, and the lips alone.
MOVING_AREA = (slice(30 * MOUTH_SIZE // 96, 76 * MOUTH_SIZE // 96), slice(MOUTH_SIZE // 4, 3 * MOUTH_SIZE // 4))
LIP_AREA = (slice(36 * MOUTH_SIZE // 96, 64 * MOUTH_SIZE // 96), slice(MOUTH_SIZE // 4, 3 * MOUTH_SIZE // 4))

# Movement is measured on BLOCKS x BLOCKS means of blocks of pixels, blurred once more, which reduces the noise of a picture.
BLOCKS = 24
LIPS = (slice(8, 18), slice(6, 18))                          # rows and columns of blocks: the lips and their surroundings
WINDOW, STEP = 36, 12                                        # frames over which movement is measured, and the step between
MIN_FRAMES = VIDEO_FPS                                       # of a mouth, to tell whether it moves
SMOOTHED, APART = 3, 4                                       # frames: means of 3 frames are compared 4 frames apart
FLOOR = 0.15                                                 # grey levels of change due to the coding of a still picture
FROZEN = 0.0125                                              # share of the crop's contrast: RMS over 1 s of change in 160 ms
MIN_FROZEN_FRAMES = 10                                       # fewer frames are never taken for frozen
# A mouth with less movement is still. The threshold was chosen on GRID's train and valid clips, whose 897 have at least 1.47;
# of 196 of them made small, dark, noisy, blurred or coded at 25 kbit/s two have under 1.21 (1.20, and 0.86 where nobody could
# read the lips). Of 218 photographs that shake, zoom, flicker or are noisy, and mouths under a square, four have more, 1.31 at
# most. Measured afterwards: 94 test and unseen clips have 1.6 and more, and so have 12 of 13 other recordings (1.58 and more);
# the other one is of a singer behind a microphone (0.96 to 1.17), whose lips are not seen.
STILL = 1.1


def movement(images: np.ndarray, missing: np.ndarray | None = None) -> float | None:
    """How much the lips change compared with the rest of the crop, in the 1.44 s in which they change most.

    images: (T, 96, 96) uint8 crops of one mouth; missing: (T,) bool, frames that do not count. None if less than 1 s is seen.
    Changes that a photograph of the mean mouth shows when it is moved, turned, bent or lit otherwise are removed first.
    """
    seen = images if missing is None else images[~missing]
    if len(seen) < MIN_FRAMES:
        return None
    small = _blocks(seen)
    starts = range(0, max(1, len(small) - WINDOW + 1), STEP)
    return max(_lips_to_face(small[start : start + WINDOW]) for start in starts)


def motionless(images: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """(T, 96, 96) uint8, (T,) bool -> (T,) bool: True for frames of a mouth that cannot be speaking. These are all its frames
    if it never moves, as in a photograph or under a cover, else the frozen ones."""
    most = movement(images, missing)
    if most is not None and most < STILL:
        return np.ones(len(images), bool) if missing is None else ~missing
    return frozen(images, missing)


def lip_change(images: np.ndarray) -> np.ndarray:
    """(T, 96, 96) uint8 -> (T,) float32: mean change of the lips and what is near from the frame before, in grey levels."""
    if len(images) < 2:
        return np.zeros(len(images), np.float32)
    change = np.abs(np.diff(_blocks(images)[:, *LIPS], axis=0)).mean(axis=(1, 2))
    return np.r_[change[:1], change].astype(np.float32)


def frozen(images: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """(T, 96, 96) uint8, (T,) bool -> (T,) bool: True for frames within a second in which the lips do not change at all, as
    when a camera or a connection stops. Missing frames are never frozen, nor those of a mouth seen for less than 0.4 s."""
    out = np.zeros(len(images), bool)
    seen = np.arange(len(images)) if missing is None else np.flatnonzero(~missing)
    if len(seen) < MIN_FROZEN_FRAMES:
        return out
    small = _blocks(images[seen])
    change = _change(small)[:, *LIPS].mean(axis=(1, 2))
    n = max(1, min(MIN_FRAMES - (len(seen) - len(change)), len(change)))
    sums = np.cumsum(np.r_[0, change])
    for start in np.flatnonzero(sums[n:] - sums[:-n] <= n * (FROZEN * float(small.mean(axis=0).std())) ** 2):
        out[seen[start : start + n + len(seen) - len(change)]] = True
    return out


def _blocks(images: np.ndarray) -> np.ndarray:
    """(T, H, W) uint8 -> (T, BLOCKS, BLOCKS) float32; pixels at the edge that do not fill a block are left out."""
    n_frames, side = len(images), min(images.shape[1:]) // BLOCKS
    cut = images[:, : side * BLOCKS, : side * BLOCKS].reshape(n_frames, BLOCKS, side, BLOCKS, side)
    small = sum(cut[:, :, i, :, j].astype(np.float32) for i in range(side) for j in range(side)) / side**2
    padded = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
    columns = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    return (columns[:, :-2] + 2 * columns[:, 1:-1] + columns[:, 2:]) / 4


def _change(small: np.ndarray) -> np.ndarray:
    """(T, BLOCKS, BLOCKS) -> (T - SMOOTHED - APART + 1, BLOCKS, BLOCKS): squared change within 160 ms, in grey levels."""
    sums = np.cumsum(np.pad(small, ((1, 0), (0, 0), (0, 0))), axis=0, dtype=np.float64)
    means = (sums[SMOOTHED:] - sums[:-SMOOTHED]) / SMOOTHED
    return np.square(means[APART:] - means[:-APART])


def _lips_to_face(small: np.ndarray) -> float:
    """(T, BLOCKS, BLOCKS) -> the change of the lips divided by that of the rest of the crop; see `movement`."""
    change = _change(small - _photograph_fit(small)).mean(axis=0)
    lips = np.zeros(change.shape, bool)
    lips[LIPS] = True
    return float(np.sqrt(change[lips].mean()) / (np.sqrt(change[~lips].mean()) + FLOOR))


def _photograph_fit(small: np.ndarray) -> np.ndarray:
    """(T, BLOCKS, BLOCKS) -> for each frame, the nearest picture that a moved photograph of the mean frame can show.

    The fit is by least squares of the mean (light), its first derivatives times polynomials of the position (moved, turned,
    scaled, sheared, bent) and its second derivatives (moved by more than a small part of a block). Without the blur and the
    second derivatives a photograph of an open mouth in a shaking hand comes to 1.7, as much as some speakers.
    """
    mean = small.mean(axis=0)
    down, right = np.gradient(mean)
    (down_down, down_right), right_right = np.gradient(down), np.gradient(right)[1]
    y, x = np.mgrid[-1 : 1 : BLOCKS * 1j, -1 : 1 : BLOCKS * 1j].astype(np.float32)
    terms = [mean, down_down, down_right, right_right]
    terms += [place * slope for place in (np.ones_like(x), x, y, x * x, x * y, y * y) for slope in (right, down)]
    terms = np.stack([term / max(float(np.sqrt(np.square(term).sum())), 1e-6) for term in terms]).astype(np.float64)
    # einsum keeps to one thread: with matrices as small as these, a BLAS with two threads takes ten times as long.
    products = np.einsum("iyx,jyx->ij", terms, terms) + 1e-6 * np.eye(len(terms))
    weights = np.linalg.solve(products, np.einsum("iyx,tyx->it", terms, small))
    return np.einsum("it,iyx->tyx", weights, terms)


def mouth_opening(images: np.ndarray) -> np.ndarray:
    """(T, 96, 96) uint8 -> (T,) float32: how much the mouth moves plus how dark its middle is, each as a z-score.

    By motion alone GRID's s4 would be 6 frames early (he moves his lips before he speaks), by darkness alone s1 5 frames late
    and s31 10 frames early; the sum has its peak at lag 0 for each of the four speakers examined (s1, s4, s26, s31).
    """
    if len(images) < 2:
        return np.zeros(len(images), np.float32)
    face = images[:, *MOVING_AREA].astype(np.float32)
    face -= face.mean(axis=(1, 2), keepdims=True)            # flicker is no motion
    change = np.abs(np.diff(face, axis=0)).mean(axis=(1, 2))
    motion = (np.r_[change[:1], change] + np.r_[change, change[-1:]]) / 2
    dark = -np.percentile(images[:, *LIP_AREA].reshape(len(images), -1), 10, axis=1)
    return (_standard(motion) + _standard(dark)).astype(np.float32)


def energy(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """(S,) -> (n_frames,) float32: square root of each video frame's RMS; 0 beyond the sound's end."""
    whole = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    whole[: len(audio)] = audio[: len(whole)]
    return np.square(whole.reshape(n_frames, SAMPLES_PER_FRAME)).mean(axis=1) ** 0.25


def correlations(opening: np.ndarray, energy: np.ndarray, max_lag: int) -> np.ndarray:
    """(T,), (T,) -> (2 max_lag + 1,) float64 in -1..1: for each lag k from -max_lag on, with lips k frames after the sound.

    The correlation is 0 if either does not change, or if the two are too short for that lag.
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


def peak(curve: np.ndarray) -> tuple[int, float]:
    """The lag in frames and the height of the highest correlation; of equal ones that nearest to lag 0."""
    middle = len(curve) // 2
    best = max(range(len(curve)), key=lambda i: (curve[i], -abs(i - middle)))
    return best - middle, float(curve[best])


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std() + 1e-6)
