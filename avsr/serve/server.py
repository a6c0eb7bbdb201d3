"""The process: a socket, uvicorn in a thread, and a polite end."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from avsr.errors import AvsrError
from avsr.serve.settings import ServeSettings

CONNECTIONS = 512                                           # at once; further ones get 503
MESSAGE_BYTES = 2**21                                       # of a WebSocket
HEADER_BYTES = 2**15
GRACE_S = 1                                                 # for answers that are being sent when the server ends


class Protocol(H11Protocol):
    """HTTP, with an end for connections that do not send a whole header in time."""

    header_s = 20.0

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(self.header_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        super().data_received(data)
        if self.cycle is not None:
            self._patience.cancel()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """The connection becomes a WebSocket, which another object follows."""
        self._patience.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._patience.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def listen(settings: ServeSettings) -> socket.socket:
    """The socket of a server. Raises AvsrError where it cannot be had."""
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise AvsrError(f"port {port}: another program listens there, perhaps another avsr serve.  End that, or use "
                            f"--port {port + 1 if port < 65535 else 8000}.") from error
        raise AvsrError(f"{host}:{port}: the server cannot listen there ({getattr(error, 'strerror', None) or error}).  Choose "
                        "another --host or --port.") from error
    return listening


def make_server(app: FastAPI, settings: ServeSettings) -> uvicorn.Server:
    """The server of an app; its coroutine `serve` runs it, and `should_exit` ends it."""
    Protocol.header_s = settings.slow_s
    config = uvicorn.Config(app, http=Protocol, ws_max_size=MESSAGE_BYTES, access_log=False, log_level="warning",
                            limit_concurrency=CONNECTIONS, h11_max_incomplete_event_size=HEADER_BYTES, server_header=False,
                            timeout_graceful_shutdown=GRACE_S, lifespan="on", ws_max_queue=8)
    return uvicorn.Server(config)


def serve(app: FastAPI, settings: ServeSettings, listening: socket.socket, *, started: Callable[[], None]) -> None:
    """Answer until the main thread is told to stop, or the server fails. started: called once it answers."""
    server = make_server(app, settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), name="server")
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            thread.join(0.02)
        if server.started:
            started()
        while thread.is_alive():
            thread.join(0.5)
    finally:
        server.should_exit = server.force_exit = True
        app.state.work.jobs.close()
        thread.join(GRACE_S)
