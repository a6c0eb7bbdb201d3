"""Boxes and names drawn on the frames of a recording.

    Clip.video (T, H, W, 3) uint8 RGB + SpeakerTimeline -> Clip with the same sound
Whoever speaks has a box of another colour, with a thicker line and the word "speaks", so that the colour is not the only sign.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from avsr.find_speakers.timeline import SpeakerTimeline, Stretch
from avsr.media import Clip

# Two colours of Okabe and Ito's palette (RGB), which people with any colour vision tell apart; black letters on both.
SPEAKS, SILENT = (230, 159, 0), (86, 180, 233)
LETTERS = (0, 0, 0)
SMALLEST_SIDE = 480       # pixels: smaller pictures are enlarged until their longer side has that, so that names can be read
LETTER_SHARE = 0.022      # of the shorter side of the picture: height of a capital letter
FEWEST_PIXELS = 9         # height of a capital letter in pixels at least
CAPITAL = 22.0            # pixels: height of a capital letter of OpenCV's font at scale 1
UNSEEN_SPEAKER = "somebody who is not in the picture speaks"


def annotated(clip: Clip, timeline: SpeakerTimeline, scale: float = 1.0) -> Clip:
    """The clip with boxes and names. scale: pixels of the clip for each pixel of the timeline.

    Its pictures are larger where they were small, and have an even width and height, as most players need.
    """
    assert clip.video is not None
    larger = max(1, -(-SMALLEST_SIDE // max(clip.video.shape[1:3])))
    frames = [_even(_enlarged(frame, larger)) for frame in clip.video]
    end_frame, labels = clip.start_frame + len(frames), timeline.labels
    turns = [turn for turn in timeline.turns if turn.start_frame < end_frame and turn.end_frame > clip.start_frame]
    people = [(person.number, stretch) for person in timeline.persons for stretch in person.stretches
              if stretch.start_frame < end_frame and stretch.end_frame > clip.start_frame]
    for number, frame in enumerate(frames, clip.start_frame):
        heard = number - timeline.offset_frames
        speakers = {one for turn in turns if turn.start_frame <= heard < turn.end_frame for one in turn.persons}
        seen = {one for one, stretch in people if stretch.start_frame <= number < stretch.end_frame}
        for one, stretch in people:
            if one in seen and stretch.start_frame <= number < stretch.end_frame:
                _draw_person(frame, stretch, number, labels[one], scale * larger, speaks=one in speakers)
        if any(turn.start_frame <= heard < turn.end_frame for turn in turns) and not speakers & seen:
            _draw_note(frame, UNSEEN_SPEAKER)
    return replace(clip, video=np.stack(frames))


def _enlarged(frame: np.ndarray, times: int) -> np.ndarray:
    import cv2

    size = (frame.shape[1] * times, frame.shape[0] * times)
    return frame if times == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)


def _even(frame: np.ndarray) -> np.ndarray:
    """The frame with its last row or column repeated where their number is odd."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _draw_person(frame: np.ndarray, stretch: Stretch, number: int, label: str, scale: float, *, speaks: bool) -> None:
    """The box of a face, its mouth, and its name with the score; only the corners of the box where the face was not found."""
    import cv2

    at = number - stretch.start_frame
    x, y, width, height = (stretch.box[at] * scale).tolist()
    corners = np.clip(np.round([x, y, x + width, y + height]), -2**14, 2**14).astype(int).tolist()
    colour, unit = (SPEAKS if speaks else SILENT), max(1, round(min(frame.shape[:2]) / 360))
    _draw_box(frame, corners, colour, 3 * unit if speaks else unit, corners_only=bool(stretch.missing[at]))
    mouth = np.clip(np.round(stretch.mouth[at] * scale), -2**14, 2**14).astype(int).tolist()
    if not stretch.missing[at]:
        cv2.drawMarker(frame, mouth, colour, cv2.MARKER_CROSS, 6 * unit, unit)
    score = float(stretch.score[at])
    words = [label, *(["speaks"] if speaks else []), *([f"{score:+.1f}"] if np.isfinite(score) else []),
             *(["not found"] if stretch.missing[at] else [])]
    _draw_text(frame, " ".join(words), corners[0], corners[1], colour)


def _draw_box(frame: np.ndarray, corners: list[int], colour: tuple[int, int, int], thickness: int, *,
              corners_only: bool) -> None:
    import cv2

    x0, y0, x1, y1 = corners
    if not corners_only:
        cv2.rectangle(frame, (x0, y0), (x1, y1), colour, thickness)
        return
    reach = ((x1 - x0) // 5, (y1 - y0) // 5)
    for x, way_x in ((x0, 1), (x1, -1)):
        for y, way_y in ((y0, 1), (y1, -1)):
            cv2.line(frame, (x, y), (x + way_x * reach[0], y), colour, thickness)
            cv2.line(frame, (x, y), (x, y + way_y * reach[1]), colour, thickness)


def _draw_text(frame: np.ndarray, text: str, left: int, above: int, colour: tuple[int, int, int]) -> None:
    """Text on a bar of a colour, within the frame, whose lower edge is at `above` if there is room."""
    import cv2

    capital = max(FEWEST_PIXELS, LETTER_SHARE * min(frame.shape[:2]))
    font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, capital / CAPITAL, max(1, round(capital / 12))
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    edge = max(2, round(capital / 3))
    bar_width, bar_height = width + 2 * edge, height + below + edge
    x = int(np.clip(left, 0, max(0, frame.shape[1] - bar_width)))
    y = int(np.clip(above - bar_height, 0, max(0, frame.shape[0] - bar_height)))
    cv2.rectangle(frame, (x, y), (x + bar_width, y + bar_height), colour, -1)
    cv2.putText(frame, text, (x + edge, y + height + edge // 2), font, scale, LETTERS, thickness, cv2.LINE_AA)


def _draw_note(frame: np.ndarray, text: str) -> None:
    """Text at the lower left corner of the frame."""
    _draw_text(frame, text, 0, frame.shape[0], SPEAKS)
