"""A server that answers what `datasets` asks the Hugging Face hub for one dataset."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(repository: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a hub that has these files in one dataset, at one commit."""

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            path, api = self.path.split("?")[0], f"/api/datasets/{repository}"
            resolved = re.fullmatch(rf"/datasets/{repository}/resolve/\w+/(.+)", path)
            tree = re.fullmatch(rf"{api}/tree/\w+(?:/(.+))?", path)
            if re.fullmatch(rf"{api}(/revision/(main|{COMMIT}))?", path):
                self.send({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
            elif path.startswith(f"{api}/revision/"):
                self.refuse("RevisionNotFound")
            elif tree and (entries := listing(files, tree[1])):
                self.send(entries)
            elif resolved and resolved[1] in files:
                content = files[resolved[1]]
                self.send(content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
            else:
                self.refuse("EntryNotFound" if tree or resolved else "RepoNotFound")

        def send(self, content, headers=(), status=200):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**dict(headers), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, code):
            self.send(b"", {"X-Error-Code": code}, 404)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def listing(files: Mapping[str, bytes], folder: str | None) -> list[dict]:
    """Files and folders in a folder."""
    start = f"{folder}/" if folder else ""
    inside = [name[len(start) :] for name in files if name.startswith(start)]
    common = {"oid": "0" * 40, "size": 0}
    found = [{"type": "file", "path": start + name, **common} for name in inside if "/" not in name]
    folders = {name.split("/")[0] for name in inside if "/" in name}
    return found + [{"type": "directory", "path": start + name, **common} for name in folders]
