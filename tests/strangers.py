"""What answers at a control socket in the daemon's place, for tests of the command line alone."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread

Reply = tuple[int, object]
"""Status and body: bytes as they are, everything else as JSON."""


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def answering(path: Path, reply: Callable[[str, str], Reply]) -> Iterator[None]:
    """HTTP on a socket, answered by `reply(method, path)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = reply(self.command, self.path)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with _Server(str(path), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            path.unlink()


@contextmanager
def speaking(path: Path, words: bytes | None) -> Iterator[None]:
    """A socket that says this to everybody and hangs up; None: says nothing, for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def talk() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(words or b"")

        if words is not None:
            Thread(target=talk, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    path.unlink()
