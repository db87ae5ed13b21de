"""`push=org/name` against a hub that keeps what it is told: huggingface_hub's own requests, without a network."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distilingua.delivery.export import publish

LARGE = ".safetensors"


class Hub(ThreadingHTTPServer):
    """What the hub answers to an upload (its HTTP interface, and Git LFS's basic transfers).

    Args:
        files: path -> content of what was committed to which repository.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.made: list[dict[str, Any]] = []
        self.stored: dict[str, bytes] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str | None] = set()


class Request(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, told: Any) -> None:
        content = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_PUT(self) -> None:
        self.server.stored[self.path.rpartition("/")[2]] = self.body()
        self.answer({})

    def do_GET(self) -> None:
        self.answer({"sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        body, hub, path = self.body(), self.server, self.path
        hub.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self.answer({"url": f"{hub.address}/org/name"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            told = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self.answer({"files": told})
        elif path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            places = [{"upload": {"href": f"{hub.address}/store/{one['oid']}"}} for one in wanted]
            objects = [{**one, "actions": place} for one, place in zip(wanted, places, strict=True)]
            self.answer({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            kept = hub.files.setdefault(found[1], {})
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    kept[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    kept[value["path"]] = hub.stored[value["oid"]]
            address = f"{hub.address}/{found[1]}/commit/{'0' * 40}"
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": address, "hookOutput": ""})
        else:
            self.send_error(404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield server
        server.shutdown()


def test_everything_but_logs_is_uploaded(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "config.json": b"{}",
        "README.md": b"---\nlicense: mit\n---\nA student.",
        "model.safetensors": bytes(range(256)) * 8,
        "onnx/model_quantized.onnx": b"graph",
    }
    for name, content in {**files, "export.log": b"not for others"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    publish("org/name", tmp_path)
    assert [(one["organization"], one["name"]) for one in hub.made] == [("org", "name")]
    assert hub.files == {"org/name": files}
    assert len(hub.stored) == 1, "weights go the way of large files"
    assert hub.tokens == {"Bearer hf_secret"}
    assert f"Uploaded to {hub.address}/org/name" in " ".join(capsys.readouterr().out.split())
