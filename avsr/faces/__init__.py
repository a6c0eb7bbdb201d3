"""Faces: frames in, one track of points per person out.

    Clip.video (T, H, W, 3) uint8 RGB  ->  FaceTrack.points (T, 478, 2) or (T, 4, 2) float32 pixels

Whose points they are is the `landmarks` of mouth-crop settings: MediaPipe's face mesh, or the keypoints of its full-range face
detector, on which published lip readers were trained. Either is looked for in every `stride`-th frame and interpolated
between: the landmarker of the mesh is the slowest step before the network (18 ms a face on one core, the detector 6 ms
a frame). At stride 3 the mouth is on average 0.5 pixels of its 96x96 crop from where looking at every frame puts it
(GRID), 1.3 to 2 where people move much (at stride 2: 0.3, 1.0 to 1.2).
Inside: mesh, blazeface (a picture -> faces in it), quiet (MediaPipe without its log) -> search (faces of any size in a
frame) -> tracks (who is who).
"""

from avsr.faces.search import BLAZEFACE, MESH, asset_of, face_size, n_points
from avsr.faces.tracks import FaceTrack, FaceTracker, join_tracks, track_faces

__all__ = ["BLAZEFACE", "MESH", "FaceTrack", "FaceTracker", "asset_of", "face_size", "join_tracks", "n_points",
           "track_faces"]
