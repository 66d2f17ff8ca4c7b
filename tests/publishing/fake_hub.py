"""A hub on 127.0.0.1, as far as an upload needs one: repositories, modes of upload, git-lfs, commits."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

LARGE = ".safetensors"
"""What goes by git-lfs."""
TORN = -1
"""A status for which the connection ends without an answer."""


class FakeHub:
    """What was uploaded, and what is refused."""

    def __init__(self) -> None:
        self.repos: dict[str, bool] = {}
        """Repository -> whether it is private."""
        self.files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.commits = 0
        self.tokens: set[str] = set()
        self.refusal: tuple[str, int, str] | None = None
        """(part of a path, status, message): requests there are refused."""
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if self._refused():
            return
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            errors = [{"message": f"no {key}"} for key in ("license", "tags") if key not in front]
            self._answer(400 if errors else 200, {"errors": errors, "warnings": []})
        elif "/preupload/" in path:
            files = [
                {
                    "path": entry["path"],
                    "uploadMode": "lfs" if entry["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for entry in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").partition("/commit/")[0], body)
        else:
            self._answer(404, {"error": f"no {path}"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused():
            return
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._answer(200, {})

    def do_GET(self) -> None:
        if self._refused():
            return
        repo = self.path.partition("?")[0].removeprefix("/api/models/").partition("/revision/")[0]
        if repo in self.hub.repos:
            self._answer(200, {"id": repo, "private": self.hub.repos[repo], "sha": "0" * 40, "siblings": []})
        else:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _refused(self) -> bool:
        part, status, message = self.hub.refusal or ("", 0, "")
        if status and part in self.path:
            if status == TORN:
                self.close_connection = True
                return True
            self._answer(status, {"error": message}, {"X-Error-Message": message})
            return True
        return False

    def _create(self, wish: dict[str, Any]) -> None:
        repo = f"{wish['organization']}/{wish['name']}"
        if repo in self.hub.repos:
            self._answer(
                409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}
            )
            return
        self.hub.repos[repo] = wish.get("visibility") == "private" or wish.get("private") is True
        self._answer(200, {"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo})

    def _commit(self, repo: str, body: bytes) -> None:
        files = self.hub.files.setdefault(repo, {})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        self.hub.commits += 1
        commit = {"commitUrl": f"{self.hub.url}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40}
        self._answer(200, {**commit, "success": True, "hookOutput": ""})

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@contextmanager
def hub_on_localhost(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that ``huggingface_hub`` speaks to, with a token at hand."""
    hub = FakeHub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
