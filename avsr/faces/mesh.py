"""MediaPipe's face mesh: a picture in, 478 points of each face in it out."""

from __future__ import annotations

import numpy as np

from avsr import assets
from avsr.faces.log_suppression import Quiet, Square, import_mediapipe, part_of


class Mesh:
    """MediaPipe's FaceLandmarker. Its detector finds faces from an eighth of the picture's width.

    mode: "VIDEO" follows faces from picture to picture, "IMAGE" finds them anew in each.
    """

    ASSET = "face_landmarker.task"
    N_POINTS = 478            # with irises; whole numbers are pixel centres

    def __init__(self, max_faces: int, mode: str) -> None:
        import_mediapipe()
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(assets.find(self.ASSET))),
            running_mode=vision.RunningMode[mode],
            num_faces=max_faces,
        )
        self._quiet = Quiet(lambda: vision.FaceLandmarker.create_from_options(options),
                            lambda task, image: task.detect_for_video(image, 0) if mode == "VIDEO" else task.detect(image))
        self.close = self._quiet.close

    def look(self, frame: np.ndarray, square: Square | None, time_ms: int | None = None) -> list[np.ndarray]:
        """Faces (478, 2) float32, in pixels of the frame, in the part of it inside `square`. Times must rise."""
        image, low, size = part_of(frame, square)
        task = self._quiet.task
        result = task.detect(image) if time_ms is None else task.detect_for_video(image, time_ms)
        faces = [np.array([(p.x, p.y) for p in face]) * size + low - 0.5 for face in result.face_landmarks]
        return [face.astype(np.float32) for face in faces]
