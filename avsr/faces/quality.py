"""Quality of a face in a frame, from the geometry of its mesh: the points of a face in, whether it is turned away out.

    points (T, 478, 2) float32 pixels -> (T,) bool

What else can be wrong with lips is left to the model's own estimate of how reliable they are, since a mask takes more than it
gives. With 30 of 75 frames bad, `default` with sound and lips had a WER of 1.8 where they were blurred by 8 pixels of 96 (8.9
with these frames masked), 3.0 where filmed with 5 pixels for 96 (7.7), 3.6 where the mouth was covered (7.7); 0.6 with good
lips (28 GRID valid clips). Faces are found from about 20 pixels on, whose mouths have 17 of the 96. Lips that do not move are
told by sync.motionless.
"""

from __future__ import annotations

import numpy as np

NOSE_TIP, FOREHEAD, CHIN, RIGHT_EDGE, LEFT_EDGE = 1, 10, 152, 234, 454       # of the mesh; right and left of the person


def nose_place(points: np.ndarray) -> np.ndarray:
    """(T, 478, 2) -> (T,): where the tip of the nose is, across the face: 0 in its middle, -1 and 1 at and beyond the outline.

    A face that looks into the camera has about 0, one turned by 25 degrees 0.4, by 35 degrees 0.7, by 45 or more 1.
    """
    down = (points[:, CHIN] - points[:, FOREHEAD]).astype(np.float64)
    across = np.stack([down[:, 1], -down[:, 0]], axis=1)
    before, after = (((points[:, a] - points[:, b]) * across).sum(axis=1)
                     for a, b in ((NOSE_TIP, RIGHT_EDGE), (LEFT_EDGE, NOSE_TIP)))
    return (before - after) / np.maximum(np.abs(before) + np.abs(after), 1e-6)


def turned_away(points: np.ndarray) -> np.ndarray:
    """(T, 478, 2) -> (T,) bool: True where the tip of the nose reaches the outline of the face, from about 45 degrees on.

    Half of the mouth is hidden then, and the mesh guesses it. No frame of GRID's clips is (0.2 at most, 76 clips), and 6 of 416
    in other recordings are. Four points, which are no mesh, tell nothing.
    """
    if points.shape[1] <= LEFT_EDGE:
        return np.zeros(len(points), bool)
    return np.abs(nose_place(points)) >= 1 - 1e-6
