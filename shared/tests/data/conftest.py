import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import platformdirs
import pytest

from corollary.data import Dataset


class Small:
    """A table of one day, and the entry that describes it."""

    content = b"date,load,OT\n" + b"".join(
        f"2020-01-01 {hour:02d}:00:00,{hour}.5,{0.1 * hour!r}\n".encode() for hour in range(24)
    )
    packed = gzip.compress(content)

    def entry(self, content: bytes = content, **changes) -> Dataset:
        fields = {
            "name": "Small",
            "file": "small.csv",
            "url": None,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "rows": 24,
            "columns": 2,
            "step": "1h",
            "licence": "CC0",
            "attribution": "nobody",
        }
        return Dataset(**fields | changes)


@pytest.fixture
def small() -> Small:
    return Small()


class Answer(NamedTuple):
    body: bytes
    status: int = 200
    announced: int | None = None
    """Length in the header, where it is not that of the body."""


class Server:
    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}/"
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []

    def offer(self, name: str, body: bytes, status: int = 200, announced: int | None = None) -> str:
        """Answer requests for a file from now on; returns its address."""
        self.answers[name] = Answer(body, status, announced)
        return self.root + name


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine that answers as told and notes what it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.requests.append(self.path)
            answer = told.answers.get(self.path.lstrip("/"), Answer(b"", 404))
            self.send_response(answer.status)
            length = len(answer.body) if answer.announced is None else answer.announced
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        told = Server(http.server_port)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield told
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache is temporary, and no folder of the user is named."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.delenv("COROLLARY_DATA", raising=False)
    return tmp_path / "cache" / "data"
