"""Active speaker detection: one person's mouth and the sound in, a score per frame out.

    mouths (T, 96, 96) uint8, sound (S,) float32 -> scores (T,) float32;  lag scores (2 max_lag + 1,) float32
"""

from __future__ import annotations

import numpy as np

from avsr import sync

WINDOW = 25               # frames whose correlation is the score of the frame in their middle
EVEN = 0.25               # correlation at which a mouth is as likely to make the sound as not
STEEP = 8.0               # log-odds for each 1 of correlation


class ActiveSpeakerDetector:
    """Tells whether a mouth makes the sound that is heard just then, by their correlation."""

    def scores(self, images: np.ndarray, audio: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
        """Log-odds (T,) float32 that this mouth makes this sound in each frame; above 0 it does.

        images: (T, 96, 96) uint8, 25 a second. audio: (S,) float32 at 16 kHz, which begins with the first frame. missing: (T,)
        bool: frames without a mouth, which score -inf.
        """
        opening, energy = sync.mouth_opening(images), sync.energy(audio, len(images))
        starts = [max(0, min(t - WINDOW // 2, len(images) - WINDOW)) for t in range(len(images))]
        found = {start: float(sync.correlations(opening[start : start + WINDOW], energy[start : start + WINDOW],
                                                sync.MAX_LAG).max()) for start in set(starts)}
        scores = np.array([STEEP * (found[start] - EVEN) for start in starts], np.float32)
        return scores if missing is None else np.where(missing, np.float32(-np.inf), scores)

    def lag_scores(self, images: np.ndarray, audio: np.ndarray, max_lag: int, missing: np.ndarray | None = None) -> np.ndarray:
        """Mean score (2 max_lag + 1,) float32 with the lips k frames after the sound, for k from -max_lag to max_lag."""
        seen = np.ones(len(images), bool) if missing is None else ~missing
        curve = sync.correlations(sync.mouth_opening(images[seen]), sync.energy(audio, len(images))[seen], max_lag)
        return (STEEP * (curve - EVEN)).astype(np.float32)
