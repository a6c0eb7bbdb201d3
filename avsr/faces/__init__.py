"""Faces: frames in, one track of landmarks per person out.

    Clip.video (T, H, W, 3) uint8 RGB  ->  FaceTrack.points (T, 478, 2) or (T, 4, 2) float32 pixels

The mouth-crop settings say which landmarks: those of MediaPipe's face mesh, or the keypoints of its full-range face detector,
on which published lip readers were trained. Every `stride`-th frame is searched, and the points are interpolated between:
the mesh is the slowest step before the network (18 ms a face on one core, the detector 6 ms a frame). At stride 3 the mouth
is on average 0.5 pixels of its 96x96 crop from where stride 1 puts it (GRID), and 1.3 to 2 pixels where people move much (at
stride 2: 0.3, and 1.0 to 1.2).
The files: detectors (a picture -> faces in it), log_suppression (MediaPipe without its log) -> search (faces of any size in
a frame) -> tracks (from frame to frame), with scenes (cuts), identity (who comes back) and geometry.
"""

from avsr.faces.search import BLAZEFACE, MESH, asset_of, face_size, n_points
from avsr.faces.tracks import HELD_FRAMES, FaceTrack, FaceTracker

__all__ = ["BLAZEFACE", "HELD_FRAMES", "MESH", "FaceTrack", "FaceTracker", "asset_of", "face_size", "n_points"]
