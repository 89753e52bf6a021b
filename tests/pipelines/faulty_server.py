"""An http server on the loopback address that serves a folder and fails as it is told."""

from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import os
from pathlib import Path
import socket
import threading
from typing import Any


class FaultyServer(ThreadingHTTPServer):
    """Serves `folder` until it is closed; `asked` counts the requests of each path, HEAD and ranges included.

    `faults[path]` lists what happens to the first, second, ... request of that path: a status such as 503, "short" (the connection is
    closed in the middle), "cut" (half the file, as if whole), "long" (a byte too many), "wrong" (another byte), "reset", "stall" (half,
    then nothing until the server is closed), "slow" (half, the rest when `go` is set), "" (served). Requests after the list are served.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.queries: list[str] = []
        self.faults: dict[str, list[Any]] = {}
        self.always: Any = ""  # what happens to every request of a shard
        self.busy = self.busiest = 0
        self.halfway, self.go, self.closing, self.lock = threading.Event(), threading.Event(), threading.Event(), threading.Lock()
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stops, ending what stalls."""
        self.closing.set()
        self.go.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client: object) -> None:
        """Clients that go away are part of the tests."""


class _Handler(SimpleHTTPRequestHandler):
    server: FaultyServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        path = path.lstrip("/")
        with self.server.lock:
            number = self.server.asked[path]
            self.server.asked[path] += 1
            self.server.headers.append(dict(self.headers))
            self.server.queries.append(query)
            planned = self.server.faults.get(path, [])
            fault = planned[number] if number < len(planned) else self.server.always if path.endswith(".tar") else ""
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            self._answer(path, fault)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    do_HEAD = do_GET  # counted, as a needless question

    def _answer(self, path: str, fault: Any) -> None:
        file = Path(self.directory, path)
        if isinstance(fault, int) or not file.is_file():
            return self.send_error(fault or 404)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return os.close(self.connection.detach())
        data = file.read_bytes()
        half = len(data) // 2
        if fault == "wrong":
            data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        data = {"cut": data[:half], "long": data + b"\0"}.get(fault, data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:half])
        self.server.halfway.set()
        if fault == "short":
            return None
        if fault == "stall":
            self.server.closing.wait()
            return None
        if fault == "slow":
            self.server.go.wait()
        self.wfile.write(data[half:])
        return None

    def log_message(self, *_: object) -> None:
        pass
