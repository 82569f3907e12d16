"""`sharp board`: the page of `sharp report` over a folder of runs, served to this machine alone and kept up
to date while rows arrive."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sharpcli.commands.page import Content, content, data, page
from sharpcli.commands.report import note
from sharpcli.errors import Refusal, signals
from sharpcli.runs_dir import in_directory

HOST = "127.0.0.1"  # nobody else's machine
FRESH = 1.0  # seconds for which rows that were read are served again


class Board:
    """The current content of a folder of runs, read at most once in `FRESH` seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._read_at, self._content = -FRESH, Content([], [], [], [])

    def content(self) -> Content:
        """What the page shows now."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH:
                messages: list[str] = []
                runs = in_directory(self.folder, messages.append)
                self._content = content(runs, static=False)
                self._content.problems[:0] = messages
                self._read_at = time.monotonic()
            return self._content

    def page(self) -> bytes:
        """The page."""
        title = f"Runs in {self.folder}"
        return page(title, ["sharp", "board", f"runs_dir={self.folder}"], self.content(), live=True).encode()

    def data(self) -> bytes:
        """What the page's scripts draw."""
        return json.dumps(data(self.content()), allow_nan=False).encode()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, board: Board, *given: Any) -> None:
        self.board = board
        super().__init__(*given)

    def do_GET(self) -> None:
        """The page at /, its data at /data.json; nothing else, and to this machine's own name alone."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in (HOST, "localhost"):  # a page of somebody else's, whose name leads here
            self.send_error(403)
            return
        path, _, stamp = self.path.partition("?")
        answers = {
            "/": ("text/html; charset=utf-8", self.board.page),
            "/data.json": ("application/json", self.board.data),
        }
        if path not in answers:
            self.send_error(404)
            return
        kind, answer = answers[path]
        body = answer()
        tag = hashlib.sha256(body).hexdigest()[:16]
        if stamp == tag:
            self.send_response(204)
            self.end_headers()
            return
        self.send_response(200)
        for key, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("ETag", tag)):
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line for every question would bury what is said."""


def serve(folder: Path, port: int) -> None:
    """Serves until a signal. Refuses a folder that is none, and a port that is taken."""
    if not folder.is_dir():
        raise Refusal(
            f"{folder}: no such directory; sharp train makes runs, and runs_dir= names where they are"
        )
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, Board(folder)))
    except (OSError, OverflowError) as problem:
        raise Refusal(
            f"--port {port}: {getattr(problem, 'strerror', None) or problem}; take another, or 0 for any"
        ) from None
    with server:
        note(f"http://{HOST}:{server.server_address[1]}/ shows {folder}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt), signals.raised():
            server.serve_forever()
