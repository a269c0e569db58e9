"""Serves the page on this machine while runs go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ..process import interrupt_once
from . import page
from .runs import ReportError, Run, find_runs

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")  # also through a forwarded port


class Live:
    """The report of `paths` as it stands, made anew when a file has changed."""

    def __init__(self, paths: Sequence[Path], warnings: Callable[[Sequence[Run]], list[str]], sample_steps: int):
        self._paths, self._warnings, self._sample_steps = paths, warnings, sample_steps
        self._lock = threading.Lock()
        self._version: str | None = None
        self._data: dict = {}

    def _files(self) -> Iterator[Path]:
        for path in self._paths:
            for folder in (path, *path.glob("runs/*/seed-*")):
                yield from folder.glob("*.json*")
                yield from folder.glob("samples/*.parquet")

    def _state(self) -> str:
        stats = []
        for path in sorted(self._files()):
            try:
                stats.append((str(path), path.stat().st_mtime_ns, path.stat().st_size))
            except FileNotFoundError:  # gone since it was listed
                continue
        return str(hash(tuple(stats)))

    def data(self) -> tuple[str, dict]:
        """A word for the state of the files, and the page's data. Raises ReportError where there is nothing to show."""
        with self._lock:
            version = self._state()
            if version != self._version:
                runs = find_runs(self._paths, may_be_empty=True)
                warnings = self._warnings(runs)
                self._data = page.report_data(runs, sample_steps=self._sample_steps, warnings=warnings, live=True)
                self._data["state"] = self._version = version
            return version, self._data


def _handler(live: Live) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Another site's page can have its own name point here, but not change what the browser calls the host.
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in HOSTS:
                return self.send_error(403, f"this address is for {' and '.join(HOSTS)} alone")
            address = urlsplit(self.path)
            if address.path not in ("/", "/data.json"):
                return self.send_error(404)
            try:
                version, data = live.data()
            except ReportError as error:
                return self._send(409, "application/json", json.dumps({"error": str(error)}))
            if address.path == "/":
                return self._send(200, "text/html; charset=utf-8", page.page(data))
            if parse_qs(address.query).get("state") == [version]:
                return self._send(204, "application/json", "")
            return self._send(200, "application/json", page.to_json(data))

        def _send(self, status: int, kind: str, text: str) -> None:
            body = text.encode(errors="replace")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the terminal shows the address and the end."""

    return Handler


def serve(
    paths: Sequence[Path], warnings: Callable[[Sequence[Run]], list[str]], sample_steps: int, port: int | None
) -> int:
    """Serve until Ctrl-C. `warnings` gives the page's warnings, or raises ReportError, as all of this does at the start
    for paths that are no runs or a port that cannot be had."""
    live = Live(paths, warnings, sample_steps)
    live.data()
    try:
        server = ThreadingHTTPServer((HOST, port or 0), _handler(live))
    except OSError as error:
        raise ReportError(
            f"--port {port}: cannot be used ({error.strerror}); choose another, or leave it out"
        ) from None
    with server:
        try:
            interrupt_once()  # also where Ctrl-C was ignored, as in a shell's background job
            print(f"http://{HOST}:{server.server_port}/ shows {', '.join(map(str, paths))}; Ctrl-C ends it", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nstopped; the runs go on", flush=True)
    return 0
