"""A camera by OpenCV, at this machine or in the network: pictures with the times at which they were taken.

    OpenCV in a thread -> bounded queue -> Camera.take() -> TakenPictures
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avsr import remote
from avsr.errors import AvsrError

if TYPE_CHECKING:
    import cv2

SIZE = (4 * 160, 3 * 160)             # pixels that are asked for (VGA); a camera may give others
LARGEST_SIDE = 1280                   # larger pictures are scaled down at once
ENOUGH_FPS = 20.0                     # below it the movement of lips is lost
MEASURED_S = 3.0                      # seconds over which the pictures are counted
STOPPED_S = 2.0                       # without a picture for so long, the camera has stopped
QUEUE_BYTES = 2**27                   # of pictures that wait at most: 5 s of VGA, 30 a second; the oldest are lost
OPEN_MS, READ_MS = 8_000, 4_000       # the longest that a camera in the network may take
MOST_INDICES = 4                      # cameras that are looked for where the system lists none


@dataclass(frozen=True)
class TakenPicture:
    """picture: (H, W, 3) uint8 RGB. time_s: when it came, by time.monotonic(); the camera took it some 0.05 s earlier."""

    picture: np.ndarray
    time_s: float


class Camera:
    """An open camera. A thread takes its pictures, and opens the camera again where it stops.

    which: its number, its device (/dev/video0), or an address (http, rtsp). name: of it in messages, without a password.
    Raises AvsrError where there is none, it may not be used, or another program has it.
    """

    def __init__(self, which: str = "0"):
        self.which = which
        self.name = f"camera {remote.without_secrets(which) if remote.is_address(which) else which}"
        self._capture = self._open()
        self._pictures: deque[TakenPicture] = deque()
        self._n_bytes, self.n_lost = 0, 0
        self._lock, self._end = threading.Lock(), threading.Event()
        self._rate = _Rate()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def _open(self) -> cv2.VideoCapture:
        """Raises AvsrError where it cannot be opened, or gives no picture."""
        check_permission(self.which, self.name)
        capture = _open_capture(self.which)
        if not capture.isOpened() or not capture.grab():
            capture.release()
            raise AvsrError(f"{self.name}: it cannot be opened, or gives no picture.  {_remedy(self.which)}")
        return capture

    def start(self) -> None:
        """Begin to take pictures."""
        self._rate.start(time.monotonic())
        self._thread.start()

    def close(self) -> None:
        """Switch the camera off."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=1)                     # one that waits for the network ends by itself
        if not self._thread.is_alive():
            self._capture.release()

    def _run(self) -> None:
        import cv2

        while not self._end.is_set():
            good, picture = self._capture.read()
            if good and picture is not None and picture.size:
                self._put(TakenPicture(cv2.cvtColor(_smaller(picture), cv2.COLOR_BGR2RGB), time.monotonic()))
            elif not self._end.wait(STOPPED_S / 2):
                self._capture.release()
                self._capture = _open_capture(self.which)

    def _put(self, one: TakenPicture) -> None:
        with self._lock:
            self._pictures.append(one)
            self._rate.add(one.time_s)
            self._n_bytes += one.picture.nbytes
            while self._n_bytes > QUEUE_BYTES:
                self._n_bytes, self.n_lost = self._n_bytes - self._pictures.popleft().picture.nbytes, self.n_lost + 1

    def take(self) -> list[TakenPicture]:
        """The pictures that came since the last call, in order."""
        with self._lock:
            pictures, self._n_bytes = list(self._pictures), 0
            self._pictures.clear()
        return pictures

    @property
    def fps(self) -> float | None:
        """Pictures a second over the last MEASURED_S; None before as much was seen, and while the camera has stopped."""
        with self._lock:
            return self._rate.fps(time.monotonic())

    def problem(self) -> str | None:
        """A sentence for the user where the camera is too slow, has stopped, or gives pictures again; each said once."""
        with self._lock:
            news = self._rate.news(time.monotonic())
        return None if news is None else f"{self.name}: {news}"


class _Rate:
    """Counts the pictures, and tells once what is wrong with their number."""

    def __init__(self):
        self.times: deque[float] = deque()
        self.began = self.last = 0.0
        self.is_stopped = self.is_slow = False

    def start(self, now: float) -> None:
        self.began = self.last = now

    def add(self, time_s: float) -> None:
        if time_s - self.last > STOPPED_S:                   # it begins anew
            self.times.clear()
            self.began = time_s
        self.times.append(time_s)
        self.last = time_s

    def fps(self, now: float) -> float | None:
        while self.times and self.times[0] < now - MEASURED_S:
            self.times.popleft()
        if now - self.began < MEASURED_S or now - self.last > STOPPED_S:
            return None
        return len(self.times) / MEASURED_S

    def news(self, now: float) -> str | None:
        if now - self.last > STOPPED_S:
            told, self.is_stopped = self.is_stopped, True
            return None if told else (f"no picture came for {STOPPED_S:.0f} s; the sound goes on, and the camera is tried "
                                      "again.  Check its cable, and whether another program took it.")
        if self.is_stopped:
            self.is_stopped = False
            return "it gives pictures again."
        fps = self.fps(now)
        if fps is None or fps >= ENOUGH_FPS or self.is_slow:
            return None
        self.is_slow = True
        return (f"it gives {fps:.0f} pictures a second, and lips need about {ENOUGH_FPS:.0f}; the sound goes on.  More light "
                "often helps, or another camera with --camera.")


def check_permission(which: str, name: str) -> None:
    """Raises AvsrError where this is no device, or one that the user may not open. Other systems than Linux tell that only by
    giving no picture."""
    path = f"/dev/video{which}" if which.isdigit() and sys.platform.startswith("linux") else which
    if Path(path).is_file():
        raise AvsrError(f"{name}: this is a file.  Use --video for it.")
    if remote.is_address(which) or not path.startswith("/"):
        return
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError as error:
        raise AvsrError(f"{name}: this machine has no {path}.  Connect a camera, choose one with --camera (`avsr live "
                        "--list-devices` lists them), or use --video none to go by the sound alone.") from error
    except PermissionError as error:
        raise AvsrError(f"{name}: this user may not open {path}.  Join the group that may (sudo usermod -aG video $USER, then "
                        "log in again), or use --video none.") from error
    except OSError as error:
        raise AvsrError(f"{name}: {path} cannot be opened ({error.strerror}).  {_remedy(which)}") from error


def list_cameras() -> list[str]:
    """A line for each camera of this machine: its number, and its name where the system says it."""
    if sys.platform.startswith("linux"):
        found = sorted(Path("/sys/class/video4linux").glob("video*"), key=lambda path: int(path.name[len("video"):]))
        # A camera often has a second device, for its metadata, whose index is not 0.
        return [f"{path.name[len('video'):]}: {_read(path / 'name')}" for path in found if _read(path / "index") in ("", "0")]
    cameras = []
    for number in range(MOST_INDICES):
        capture = _open_capture(str(number))
        if capture.isOpened():
            cameras.append(f"{number}: camera")
        capture.release()
    return cameras


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def _open_capture(which: str) -> cv2.VideoCapture:
    """OpenCV's reader, opened or not. Its own messages stay unsaid: ours follow."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")    # quiet
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if remote.is_address(which):
        return cv2.VideoCapture(which, cv2.CAP_FFMPEG, [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS,
                                                        cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS])
    capture = cv2.VideoCapture(int(which)) if which.isdigit() else cv2.VideoCapture(which)
    if capture.isOpened():
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, SIZE[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, SIZE[1])
        capture.set(cv2.CAP_PROP_FPS, 30)
    return capture


def _smaller(picture: np.ndarray) -> np.ndarray:
    """The picture, (H, W, 3) BGR, with no side of more than LARGEST_SIDE pixels."""
    import cv2

    scale = LARGEST_SIDE / max(picture.shape)
    return picture if scale >= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _remedy(which: str) -> str:
    if remote.is_address(which):
        return "Check the address, and that the camera is switched on."
    allow = "allow this program the camera in the system's privacy settings, " if sys.platform in ("darwin", "win32") else ""
    return f"Close other programs that use it, {allow}choose another with --camera, or use --video none."
