"""A stand-in for the Hugging Face hub on this machine: the endpoints that publishing and fetching a
model use, over real HTTP, with files above a few bytes sent by the LFS protocol as there."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_FROM_BYTES = 10_000


class Hub:
    """Repositories in memory; ``requests`` are the method and path of everything that was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.token: str | None = None
        self.announced: dict[str, int] = {}  # sizes that are not the true ones
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo: str, folder: Path) -> dict[str, bytes]:
        self.repos[repo] = {path.name: path.read_bytes() for path in folder.iterdir()}
        return self.repos[repo]


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wanted = f"Bearer {self.hub.token}" if self.hub.token else None
        refused = wanted is not None and self.headers.get("Authorization") != wanted
        if refused and not path.startswith("/objects/"):
            self._json({"error": "Invalid credentials"}, 401)
            return
        words = path.strip("/").split("/")
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":  # the card's metadata
            self._json({"errors": [], "warnings": []})
        elif words[0] == "objects":
            self.hub.objects[words[1]] = body
            self._json({})
        elif words[:2] == ["api", "models"]:
            self._api("/".join(words[2:4]), words[4:], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._lfs(json.loads(body))
        elif words[2:3] == ["resolve"]:
            self._resolve("/".join(words[:2]), "/".join(words[4:]))
        else:
            self._json({"error": f"not served here: {path}"}, 404)

    def _create(self, body: dict[str, Any]) -> None:
        repo = (
            f"{body['organization']}/{body['name']}" if body.get("organization") else body["name"]
        )
        self.hub.repos.setdefault(repo, {})
        self._json({"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo})

    def _api(self, repo: str, words: list[str], body: bytes) -> None:
        if repo not in self.hub.repos:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif words[:1] == ["preupload"]:
            files = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["size"] > LFS_FROM_BYTES else "regular",
                    "shouldIgnore": False,
                }
                for item in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif words[:1] == ["commit"]:
            self._commit(repo, [json.loads(line) for line in body.splitlines()])
        elif words[:1] in ([], ["revision"]):
            if words and words[1] not in ("main", COMMIT):
                self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [self._sibling(name, data) for name, data in self.hub.repos[repo].items()]
            self._json({"id": repo, "sha": COMMIT, "siblings": siblings})
        else:
            self._json({"error": f"not served here: {words}"}, 404)

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        size = self.hub.announced.get(name, len(data))
        told: dict[str, Any] = {"rfilename": name, "size": size, "blobId": "0" * 40}
        if len(data) > LFS_FROM_BYTES:
            sha256 = hashlib.sha256(data).hexdigest()
            told["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
        return told

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repos[repo][value["path"]] = self.hub.objects[value["oid"]]
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def _lfs(self, body: dict[str, Any]) -> None:
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}},
            }
            for item in body["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _resolve(self, repo: str, name: str) -> None:
        data = self.hub.repos.get(repo, {}).get(name)
        if data is None:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha256(data).hexdigest()
        self._send(data, 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        message = {"X-Error-Message": content["error"]} if status >= 400 else {}
        self._send(
            json.dumps(content).encode(),
            status,
            {"Content-Type": "application/json", **message, **(headers or {})},
        )

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
