"""One live recording that is being recognised, in threads of its own, in memory that does not grow but for the text.

    LiveSource -> thread: pieces -> queue -> thread: ClipAssembler -> LiveRecogniser -> messages of the protocol, see live.py
Where recognition falls behind, what has come is taken in first, and the text is looked at less often.
"""

from __future__ import annotations

import base64
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, Protocol

import numpy as np

from avsr.errors import BadMedia
from avsr.live import ClipAssembler, LiveRecogniser, LiveUpdate
from avsr.live.container import GrowingContainer, GrowingFile, PicturePiece, SoundPiece
from avsr.media import Clip
from avsr.serve.problems import as_api_error
from avsr.serve.watch import InputWatch
from avsr.transcript import Word
from avsr.transcript.formats import word_row

QUEUED = 40                           # pieces that wait at most: about a second; with pictures of 640x480 up to 30 MB
AT_ONCE = 8                           # pieces that are put together before they are recognised, where more wait
OVERDUE_S = 2.0                       # seconds of recording after which the text is looked at, though more waits

Piece = SoundPiece | PicturePiece
Send = Callable[[dict[str, Any]], None]


class LiveSource(Protocol):
    """What gives the pieces of a recording, in a thread of its own."""

    def feed(self, data: bytes, /) -> None:
        """Take in what came; never waits."""
    def end(self) -> None:
        """Nothing more comes."""
    def close(self) -> None:
        """Drop what waits."""
    @property
    def n_waiting(self) -> int:
        """Bytes that wait."""
        ...
    @property
    def problems(self) -> list[str]:
        """Sentences about what was wrong."""
        ...
    def __iter__(self) -> Iterator[Piece]: ...


class ContainerSource(GrowingFile):
    """A container that grows, as a LiveSource. Iterating raises BadMedia where what was announced is not in it."""

    def __init__(self, *, has_audio: bool, has_video: bool):
        super().__init__()
        self.has_audio, self.has_video = has_audio, has_video
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[Piece]:
        with GrowingContainer(self, want_audio=self.has_audio, want_video=self.has_video) as container:
            for noun, wanted, there in (("sound", self.has_audio, container.has_audio),
                                        ("picture", self.has_video, container.has_video)):
                if wanted and not there:
                    raise BadMedia(f"live: there is no {noun} in the recording, though the first message announces it.  "
                                   f'Send "{noun}": false.')
            yield from container
            self.problems += container.problems


class LiveSession:
    """Recognises what a LiveSource gives, and sends messages; see live.py.

    live: recognises; it is closed here. send: called in another thread; it may wait, and raises OSError where nobody listens.
    transcript: gives what the last message holds. longest_s: seconds after which the recording is ended.
    """

    def __init__(self, source: LiveSource, live: LiveRecogniser, send: Send, transcript: Callable[[], Any], *,
                
                 longest_s: float):
        self.source, self.live, self.send, self.transcript, self.longest_s = source, live, send, transcript, longest_s
        self._queue: queue.Queue[Piece | None] = queue.Queue(QUEUED)
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        has_audio, has_video = live.recording.has_audio, live.recording.has_video
        self._assembler = ClipAssembler(has_audio=has_audio, has_video=has_video)
        self._watch = InputWatch(has_audio=has_audio, has_video=has_video and "v" in live.modality)
        self._end_s, self._looked_s = 0.0, 0.0               # of the recording, now and at the last update
        self._mouth_s: float | None = None                   # when the mouth that was sent last was seen
        self._clock_zero: float | None = None                # when 0 s of the recording was, by time.monotonic
        self._threads = [threading.Thread(target=target, name=f"live {name}", daemon=True)
                         for name, target in (("decoding", self._decode), ("recognition", self._recognise))]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End without a word, as soon as the current step is done: nobody wants the rest."""
        self._stopped.set()
        self.source.close()

    @property
    def is_over(self) -> bool:
        """Whether both threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def _decode(self) -> None:
        try:
            for piece in self.source:
                if not self._put(piece):
                    return
        except Exception as error:
            self._failure = error
        self._put(None)

    def _put(self, piece: Piece | None) -> bool:
        """Queue a piece, waiting for room; False once the session is stopped."""
        while not self._stopped.is_set():
            try:
                self._queue.put(piece, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _recognise(self) -> None:
        with ExitStack() as at_end:
            at_end.callback(self.stop)                       # also where sending fails, so that decoding ends as well
            try:
                with self.live:
                    self._follow()
                    if not self._stopped.is_set():
                        self._end()
            except OSError:
                return                                       # nobody listens any more
            except Exception as error:                       # what is no AvsrError goes into the log
                self._send_error(error)

    def _follow(self) -> None:
        """Recognise while the recording goes on."""
        n_added = 0
        while self._end_s < self.longest_s and (piece := self._next()) is not None:
            n_added += 1
            self._add(piece)
            if n_added >= AT_ONCE or self._queue.empty():
                n_added = 0
                self._take(self._assembler.take())
            if self.live.due and (self._queue.empty() or self._end_s - self._looked_s > OVERDUE_S):
                self._report(self.live.update())
        if self._failure is not None:
            raise self._failure

    def _next(self) -> Piece | None:
        while not self._stopped.is_set():
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def _add(self, piece: Piece) -> None:
        if isinstance(piece, SoundPiece):
            self._assembler.add_sound(piece.samples)
        else:
            self._assembler.add_picture(piece.picture, piece.time_s)
        for problem in self._watch.add(piece):
            self.send({"type": "problem", "message": problem})

    def _take(self, clip: Clip | None) -> None:
        if clip is None:
            return
        self.live.add(clip)
        self._end_s = clip.start_s + clip.duration_s
        zero = time.monotonic() - self._end_s
        self._clock_zero = zero if self._clock_zero is None else min(self._clock_zero, zero)

    def _end(self) -> None:
        if self._end_s >= self.longest_s:
            self.send({"type": "problem", "message": f"The recording has reached {self.longest_s:.0f} s, the longest that this "
                                                     "server takes, so it was ended."})
        self._take(self._assembler.finish())
        self._report(self.live.finish())
        self.live.recording.problems += self.source.problems
        self.send({"type": "done", "transcript": self.transcript()})

    def _report(self, update: LiveUpdate) -> None:
        self._looked_s = update.end_s
        behind = 0.0 if self._clock_zero is None else time.monotonic() - self._clock_zero - update.end_s
        self.send({"type": "text", "committed": rows(update.committed), "pending": rows(update.pending),
                   "end": round(update.end_s, 3), "behind": round(max(0.0, behind), 3)})
        if update.mouth is not None and update.mouth_s != self._mouth_s:
            self._mouth_s = update.mouth_s
            self.send({"type": "mouth", "jpeg": jpeg(update.mouth), "time": update.mouth_s, "believed": update.believed})
        for problem in self._watch.look(update):
            self.send({"type": "problem", "message": problem})

    def _send_error(self, error: Exception) -> None:
        with suppress(OSError):
            self.send({"type": "error", **as_api_error(error).content})


def rows(words: tuple[Word, ...]) -> list[dict[str, Any]]:
    """Words as in our JSON."""
    return [word_row(word) for word in words]


def jpeg(mouth: np.ndarray) -> str:
    """A picture (H, W) uint8 grey as base64 of a JPEG."""
    import cv2

    done, encoded = cv2.imencode(".jpg", mouth, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    return base64.b64encode(encoded.tobytes()).decode()
