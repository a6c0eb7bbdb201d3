"""A real server of ours in this process, on a free port, for tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from avsr.serve.app import create_app
from avsr.serve.server import listen, make_server
from avsr.serve.settings import ServeSettings


class Served:
    """A server that runs: its address, and its app, whose `state.work` has the queue."""

    def __init__(self, address: str, app):
        self.address, self.app, self.jobs = address, app, app.state.work.jobs

    @property
    def host(self) -> str:
        """Its address without http://, as a WebSocket needs it."""
        return self.address.removeprefix("http://")

    def wait_until_idle(self, seconds: float = 20.0) -> None:
        """Wait until no request has a place. Fails after some seconds."""
        until = time.monotonic() + seconds
        while self.jobs.n_taken or self.jobs._jobs:
            assert time.monotonic() < until, f"{self.jobs.n_taken} requests hold places"
            time.sleep(0.05)


@contextmanager
def served(model, settings: ServeSettings | None = None) -> Iterator[Served]:
    """A server for a model, as `avsr serve` makes it."""
    settings = replace(settings or ServeSettings(), port=0)
    listening = listen(settings)
    port = listening.getsockname()[1]
    app = create_app(model, replace(settings, port=port))
    server = make_server(app, settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield Served(f"http://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
