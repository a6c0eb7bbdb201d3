"""Faces: frames in, one track of landmarks per person out.

    Clip.video (T, H, W, 3) uint8 RGB or (T, H, W) grey  ->  FaceTrack.points (T, 478, 2) or (T, 4, 2) float32 pixels

The mouth-crop settings say which landmarks: those of MediaPipe's face mesh, or the keypoints of its full-range face detector,
on which published lip readers were trained. The mesh is the slowest step before the network (10 ms of one core a face), so
it is searched in key frames, about one a second, and followed between them by a small network of ours (0.15 ms): see following
and experiments/lips. The detector's points are searched in every `stride`-th frame and interpolated between (6 ms a search).
FaceTracker(stride=1) searches every frame: it is the reference.
The files: detectors (a picture -> faces in it), log_suppression (MediaPipe without its log) -> search (faces of any size in
a frame) -> tracks (from frame to frame), with following, scenes (cuts), identity (who comes back) and geometry.
"""

from avsr.faces.search import BLAZEFACE, MESH, asset_of, face_size, n_points
from avsr.faces.tracks import HELD_FRAMES, FaceTrack, FaceTracker

__all__ = ["BLAZEFACE", "HELD_FRAMES", "MESH", "FaceTrack", "FaceTracker", "asset_of", "face_size", "n_points"]
