"""A stand-in for the Hugging Face hub's HTTP API on this machine, with a log of what was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_only_for_these_tests"


@dataclass
class Repo:
    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    branches: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, data in sorted(self.files.items()):
            digest.update(name.encode() + data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    sent: int = 0  # bytes of body that were sent


@dataclass
class Hub:
    """What the server serves, how it fails, and the requests it had."""

    repos: dict[str, Repo] = field(default_factory=dict)
    drop_after: int | None = None  # break the next download connection after so many bytes, once
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def downloads(self, file: str) -> list[Request]:
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(f"/{file}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repo = self.hub.repos.get("/".join(parts[:2]))
        error = self.refusal(repo, parts[3] if len(parts) > 3 else "main")
        if error:
            self.note(path)
            self.reply(error[0], b"{}", {"X-Error-Code": error[1], "X-Error-Message": error[1]})
        elif is_api:
            self.note(path)
            kind = parts[2] if len(parts) > 2 else "revision"
            body = _tree(repo) if kind == "tree" else _info("/".join(parts[:2]), repo)
            self.reply(HTTPStatus.OK, json.dumps(body).encode(), {})
        else:
            self.file(repo, "/".join(parts[4:]), path)

    def refusal(self, repo: Repo | None, revision: str) -> tuple[HTTPStatus, str] | None:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None:
            # The real hub hides what is private: without a token everything unknown is a 401.
            return (HTTPStatus.NOT_FOUND if known else HTTPStatus.UNAUTHORIZED), "RepoNotFound"
        if repo.private and not known:
            return HTTPStatus.UNAUTHORIZED, "RepoNotFound"
        if repo.gated and not known:
            return HTTPStatus.UNAUTHORIZED, "GatedRepo"
        if revision not in (*repo.branches, repo.commit):
            return HTTPStatus.NOT_FOUND, "RevisionNotFound"
        return None

    def file(self, repo: Repo, name: str, path: str) -> None:
        data = repo.files.get(name)
        if data is None:
            self.note(path)
            self.reply(HTTPStatus.NOT_FOUND, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {
            "ETag": f'"{_oid(data)}"',
            "X-Repo-Commit": repo.commit,
            "Accept-Ranges": "bytes",
        }
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        status = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.reply(status, data[start:], headers, path)

    def reply(
        self, status: HTTPStatus, body: bytes, headers: dict[str, str], path: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        sent = body if self.command == "GET" else b""
        if path is not None and self.hub.drop_after is not None and sent[self.hub.drop_after :]:
            sent, self.hub.drop_after = sent[: self.hub.drop_after], None
            self.close_connection = True
        if path is not None:
            self.note(path, len(sent))
        self.wfile.write(sent)

    def note(self, path: str, sent: int = 0) -> None:
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), sent))


def _oid(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _info(name: str, repo: Repo) -> dict[str, object]:
    files = [{"rfilename": file} for file in repo.files]
    return {"id": name, "sha": repo.commit, "siblings": files, "tags": [], "private": repo.private}


def _tree(repo: Repo) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": file, "size": len(data), "oid": _oid(data)}
        for file, data in repo.files.items()
    ]


@contextmanager
def running() -> Iterator[Hub]:
    """Serve a `Hub` on a free port of 127.0.0.1 until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
