"""Mixtures of Gaussians with diagonal covariances, one mixture for each state: the emissions of one stream.

    features (T, D) float32 -> log b_n(x_t) (T, N)         the shares of components (T, N, M) -> sums -> new mixtures

    log b_n(x) = log sum_m w_nm N(x; mean_nm, diag(variance_nm))
Sources: Rabiner, "A tutorial on hidden Markov models" (Proc. IEEE 77, 1989), equations 52 to 54; Young et al., "The HTK Book",
for the split of components and the floor of variances.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

MIN_FRAMES = 8.0                                            # of a component: with fewer it keeps its mean and variance
SPLIT_FRAMES = 30.0                                         # of a component: with fewer it is not split
SPLIT_STEP = 0.2                                            # standard deviations between a component and its halves (HTK)
SMALL = 1e-6                                                # a share of a frame that counts nothing
LOG_SMALL = np.float32(-20.0)
FLOOR_SHARE = 0.03                                          # of the variance of all frames: no variance is below


@dataclass(frozen=True)
class Mixtures:
    """weights (N, M) float32, which sum to 1 for each state, 0 for a component that is not used; means, variances (N, M, D)."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @classmethod
    def flat(cls, n_states: int, mean: np.ndarray, variance: np.ndarray) -> Mixtures:
        """The same Gaussian for every state: the flat start. mean, variance: (D,)."""
        shape = (n_states, 1, len(mean))
        return cls(np.ones((n_states, 1), np.float32), np.broadcast_to(mean, shape).astype(np.float32),
                   np.broadcast_to(variance, shape).astype(np.float32))

    @property
    def n_components(self) -> int:
        """The most components that a state has, M."""
        return self.weights.shape[1]

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained: mean, variance and weight of each component in use."""
        return int((self.weights > 0).sum()) * (2 * self.means.shape[2] + 1)

    def log_components(self, features: np.ndarray, states: np.ndarray) -> np.ndarray:
        """log (w_nm N(x_t; ...)) of some states: features (T, D), states (K,) -> (T, K, M) float32.

        A frame of NaN was not observed, such as a mouth that is not to be seen: 0 for every state, so that it favours none.
        """
        means, inverse = self.means[states], 1.0 / self.variances[states]
        with np.errstate(divide="ignore"):
            constant = np.log(self.weights[states])
        constant = constant - 0.5 * (np.log(2 * np.pi * self.variances[states]) + means**2 * inverse).sum(axis=-1)
        seen = np.nan_to_num(features)
        # (x - m)^2 / v = x^2 / v - 2 x m / v + m^2 / v: two matrix products
        flat = (-1, features.shape[1])
        both = np.concatenate([-0.5 * inverse.reshape(flat), (means * inverse).reshape(flat)], axis=1)
        out = np.concatenate([seen**2, seen], axis=1, dtype=np.float32) @ both.T.astype(np.float32, copy=False)
        out = out.reshape(len(features), *constant.shape) + constant.astype(np.float32)
        out[np.isnan(features).any(axis=1)] = -np.log(self.n_components)
        return out

    def log_likelihoods(self, features: np.ndarray, states: np.ndarray) -> np.ndarray:
        """log b_n(x_t) of some states: (T, K) float32; 0 for frames of NaN."""
        return log_sum(self.log_components(features, states))

    def sums(self, features: np.ndarray, states: np.ndarray, occupancy: np.ndarray) -> Sums:
        """What `updated` needs of an utterance, of these states alone. occupancy: (T, K), their probabilities in each frame."""
        seen = ~np.isnan(features).any(axis=1)
        features, occupancy = features[seen], occupancy[seen]
        parts = self.log_components(features, states)
        shares = np.exp(np.maximum(parts - log_sum(parts)[:, :, None], LOG_SMALL)) * occupancy[:, :, None]
        shares[shares < SMALL] = 0                          # numbers near float32's smallest make the products ten times slower
        flat = shares.reshape(len(features), -1).T.astype(np.float32)
        shape = len(states), self.n_components, -1
        return Sums(flat.sum(axis=1).reshape(shape[:2]), (flat @ features).reshape(shape), (flat @ features**2).reshape(shape))

    def updated(self, sums: Sums, floor: np.ndarray) -> Mixtures:
        """The maximum-likelihood mixtures for these sums (the M-step). floor: (D,), no variance gets smaller."""
        total = sums.frames.sum(axis=1, keepdims=True)
        weights = np.where(total > 0, sums.frames / np.maximum(total, 1e-30), self.weights)
        enough = (sums.frames >= MIN_FRAMES)[:, :, None]
        frames = np.maximum(sums.frames, 1e-30)[:, :, None]
        means = np.where(enough, sums.first / frames, self.means)
        variances = np.where(enough, sums.second / frames - means**2, self.variances)
        return Mixtures(weights.astype(np.float32), means.astype(np.float32),
                        np.maximum(variances, floor).astype(np.float32))

    def split(self, sums: Sums) -> Mixtures:
        """Twice the components: each that saw SPLIT_FRAMES becomes two, SPLIT_STEP standard deviations to either side."""
        divide = (sums.frames >= SPLIT_FRAMES) & (self.weights > 0)
        step = SPLIT_STEP * np.sqrt(self.variances) * divide[:, :, None]
        first, second = np.where(divide, self.weights / 2, self.weights), np.where(divide, self.weights / 2, 0.0)
        return Mixtures(np.concatenate([first, second], axis=1, dtype=np.float32),
                        np.concatenate([self.means - step, self.means + step], axis=1, dtype=np.float32),
                        np.concatenate([self.variances, self.variances], axis=1, dtype=np.float32)).compact()

    def compact(self) -> Mixtures:
        """Without the components that no state uses: those in use come first."""
        order = np.argsort(-self.weights, axis=1, kind="stable")[:, :int((self.weights > 0).sum(axis=1).max())]
        picked = order[:, :, None]
        return replace(self, weights=np.take_along_axis(self.weights, order, 1),
                       means=np.take_along_axis(self.means, picked, 1),
                       variances=np.take_along_axis(self.variances, picked, 1))


@dataclass
class Sums:
    """The sums of the E-step over frames: shares (N, M), shares times x and times x^2 (N, M, D), float64."""

    frames: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def zeros(cls, mixtures: Mixtures) -> Sums:
        """Nothing seen yet."""
        return cls(np.zeros(mixtures.weights.shape), np.zeros(mixtures.means.shape), np.zeros(mixtures.means.shape))

    def add(self, other: Sums, states: np.ndarray) -> None:
        """Add what an utterance with these states, all different, gave."""
        self.frames[states] += other.frames
        self.first[states] += other.first
        self.second[states] += other.second


def log_sum(parts: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis, which may hold -inf but not only -inf."""
    if parts.shape[-1] == 1:
        return parts[..., 0]
    highest = parts.max(axis=-1)
    return highest + np.log(np.exp(np.maximum(parts - highest[..., None], LOG_SMALL)).sum(axis=-1))
