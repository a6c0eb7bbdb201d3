"""A server in this process for tests, on a port of its own, as `avsr serve` makes it."""

import threading
from contextlib import contextmanager

import uvicorn

from avsr.serve.app import create_app
from avsr.serve.server import MESSAGE_BYTES, listen
from avsr.serve.settings import ServeSettings


@contextmanager
def served(checkpoint, **settings):
    """Yields host:port of a server with one model."""
    settings = ServeSettings(port=0, **settings) if "port" not in settings else ServeSettings(**settings)
    listening = listen(settings)
    server = uvicorn.Server(uvicorn.Config(create_app(checkpoint, settings), log_level="warning", ws_max_size=MESSAGE_BYTES,
                                           timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)
