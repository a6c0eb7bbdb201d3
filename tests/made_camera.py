"""A camera in the network, on this machine: MJPEG over HTTP at any number of pictures a second, which can be made to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class MjpegCamera(ThreadingHTTPServer):
    """Shows pictures (H, W, 3) uint8 RGB one after the other, `fps` a second, from the first again at the end.

    stopped: set to make it hang up and refuse. n_sent: pictures sent.
    """

    daemon_threads = True

    def __init__(self, pictures: Sequence[np.ndarray], fps: float):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jpegs = [cv2.imencode(".jpg", cv2.cvtColor(one, cv2.COLOR_RGB2BGR))[1].tobytes() for one in pictures]
        self.fps, self.n_sent, self.stopped = fps, 0, threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}/video.mjpg"

    def __enter__(self) -> MjpegCamera:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hangs up is what tests want."""


class _Handler(BaseHTTPRequestHandler):
    server: MjpegCamera

    def do_GET(self):
        if self.server.stopped.is_set():
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        begins, n = time.monotonic(), 0
        while not self.server.stopped.is_set():
            jpeg = self.server.jpegs[n % len(self.server.jpegs)]
            self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))
            n += 1
            self.server.n_sent = n
            time.sleep(max(0.0, begins + n / self.server.fps - time.monotonic()))

    def log_message(self, format, *args):
        """Say nothing."""
