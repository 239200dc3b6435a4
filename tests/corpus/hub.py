"""A Hugging Face hub of one's own: the few addresses that its client asks for, served from a folder.

`HUB/OWNER/NAME/` is a repository. It exists because the hub's client is not ours and cannot be asked to do without one.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves a folder; remembers what was asked."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Range') or ''}".strip())
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        ):
            name, kind, _, below = match.groups()
            root = self.server.folder / name
            if not root.is_dir():
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
            if kind in (None, "revision"):
                siblings = [{"rfilename": file} for file in files]
                return self._json({"_id": "1", "id": name, "sha": REVISION, "private": False, "siblings": siblings})
            if kind == "paths-info":
                wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
                return self._json([self._entry(root, file) for file in files if file in wanted])
            return self._json(self._tree(root, below or ""))
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            file = self.server.folder / match[1] / match[3]
            if not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self._file(file)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _tree(self, root: Path, below: str) -> list[dict[str, object]]:
        recursive = "recursive=true" in self.path.lower()
        paths = (root / below).rglob("*") if recursive else (root / below).glob("*")
        return [self._entry(root, path.relative_to(root).as_posix()) for path in sorted(paths)]

    def _entry(self, root: Path, name: str) -> dict[str, object]:
        path = root / name
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0", "size": 0}
        data = path.read_bytes()
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": _git(data)}
        if name.endswith(".parquet"):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def _file(self, file: Path) -> None:
        data = file.read_bytes()
        headers = {"ETag": f'"{_git(data)}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            return self._send(206, data[start:stop], headers)
        return self._send(200, data, headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
