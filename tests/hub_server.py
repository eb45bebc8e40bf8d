"""A Hub of one process: the part of the Hugging Face Hub's HTTP protocol that huggingface_hub speaks when it publishes
a folder and loads it back, with real storage, hashes and commits, and with faults that tests ask for.

    with hub_server() as hub:
        hub.fault("PUT", "/lfs/", 500)                           # the next upload fails once
        HfApi(endpoint=hub.url, token=TOKEN).create_repo("me/x")

Not here: Xet (HF_HUB_DISABLE_XET=1 has the client take git-LFS), pull requests, gating, search.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secretOfTheTestsThatMustNeverBeSeen"
Kind: TypeAlias = int | str | threading.Event | Callable[[], None]
LARGE = re.compile(r"\.(safetensors|parquet|bin|arrow)$")  # what a fresh repository's .gitattributes sends to LFS
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Fault:
    """Something that goes wrong `times` times with requests of `method` whose path holds `part`, after `after` of them
    went well. kind: a status; "cut" (the connection breaks in the middle of the body), "lost" (the request is done, its
    answer never comes), an event to wait for, or what to do in the middle of the body, which is then dropped."""

    method: str
    part: str
    kind: Kind
    times: int = 1
    after: int = 0


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> files


@dataclass
class Hub:
    """What the server holds. requests: (method, path) in order; uploaded: bytes of each object that was stored."""

    url: str = ""
    token: str = TOKEN
    role: str = "write"
    requests: list[tuple[str, str]] = field(default_factory=list)
    repos: dict[str, Repo] = field(default_factory=dict)  # "models/owner/name"
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS storage by sha256
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    expires: int | None = None  # requests with a token that are served before it is no longer valid
    chunk: int | None = None  # bytes of a part; None: one request an object
    before_commit: Callable[[], None] | None = None
    echo: bool = False  # errors hold the request's own token, as a careless proxy's might
    lock: threading.RLock = field(default_factory=threading.RLock)

    def fault(self, method: str, part: str, kind: Kind, times: int = 1, after: int = 0) -> None:
        self.faults.append(Fault(method, part, kind, times, after))

    def count(self, method: str, part: str) -> int:
        return sum(one == method and part in path for one, path in self.requests)

    def commit(self, key: str, branch: str, files: dict[str, bytes]) -> str:
        """Put a commit on a branch, as a client or somebody else does."""
        repo = self.repos[key]
        made = hashlib.sha1(repr((len(repo.commits), key, branch, sorted(files))).encode()).hexdigest()
        repo.commits[made], repo.branches[branch] = files, made
        return made

    def files(self, key: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[key]
        at = repo.branches.get(revision) or repo.tags.get(revision) or revision
        return repo.commits[at]


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    # --- one request --------------------------------------------------------------------------------------------------

    def _serve(self, method: str) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.requests.append((method, path))
            fault = self._fault(method, path)
        if fault == "cut" or callable(fault):
            self.rfile.read(min(16, int(self.headers.get("Content-Length") or 0)))
            if callable(fault):
                fault()
            self._hang_up()
            return
        body = self._body()
        if isinstance(fault, threading.Event):
            fault.wait(60.0)
        try:
            if isinstance(fault, int):
                raise Refused(fault, "a fault that was asked for")
            with hub.lock:
                status, headers, content = self._answer(method, path, body)
        except Refused as refused:
            told = refused.message + (f" {self.headers.get('Authorization')}" if hub.echo else "")
            headers = {"X-Error-Message": told} | ({"X-Error-Code": refused.code} if refused.code else {})
            status, content = refused.status, json.dumps({"error": told}).encode()
        if fault == "lost":
            self._hang_up()
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(content)

    def _fault(self, method: str, path: str) -> Kind | None:
        for fault in self.hub.faults:
            if fault.method == method and fault.part in path and fault.times:
                if fault.after:
                    fault.after -= 1
                else:
                    fault.times -= 1
                    return fault.kind
        return None

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    # --- the protocol -------------------------------------------------------------------------------------------------

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        hub = self.hub
        if path.startswith("/lfs/"):
            return self._storage(method, path, body)
        self._authorise()
        if path == "/api/whoami-v2":
            return _json({"name": "me", "type": "user", "auth": {"accessToken": {"role": hub.role}}})
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            key = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            if key in hub.repos:
                raise Refused(409, "You already created this repo")
            hub.repos[key] = Repo(private=asked.get("visibility") != "public")
            hub.commit(key, "main", {".gitattributes": ATTRIBUTES})
            return _json({"url": f"{hub.url}/{key.removeprefix('models/')}", "id": key})
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve((found[1] or "models/") + found[2], found[3], found[4])
        found = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/([\w-]+)(?:/(.+))?)?", path)
        if found is None:
            raise Refused(404, f"this server does not know {path}")
        return self._repository(method, found[1], found[2] or "info", found[3] or "main", body)

    def _authorise(self) -> None:
        hub = self.hub
        if hub.expires is not None:
            hub.expires -= 1
        if self.headers.get("Authorization") != f"Bearer {hub.token}" or (hub.expires or 0) < 0:
            raise Refused(401, "Invalid credentials in Authorization header")

    def _repository(self, method: str, key: str, what: str, at: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        hub = self.hub
        if key not in hub.repos:
            raise Refused(404, "Repository not found", "RepoNotFound")
        repo = hub.repos[key]
        if what == "refs":
            kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags), "converts": ("", {})}
            listed = {
                kind: [{"name": name, "ref": f"refs/{of}/{name}", "targetCommit": at} for name, at in refs.items()]
                for kind, (of, refs) in kinds.items()
            }
            return _json(listed)
        if what == "branch":
            if at in repo.branches:
                raise Refused(409, "Reference already exists")
            repo.branches[at] = repo.branches["main"]
            return _json({})
        if what == "tag":
            tag = json.loads(body)["tag"]
            if tag in repo.tags:
                raise Refused(409, "Tag reference exists already")
            repo.tags[tag] = self._commit_of(repo, at)
            return _json({})
        commit = self._commit_of(repo, at)
        files = repo.commits[commit]
        if what in ("info", "revision"):
            owner_name = key.partition("/")[2]
            siblings = [{"rfilename": name} for name in files]
            return _json({"id": owner_name, "sha": commit, "private": repo.private, "siblings": siblings})
        if what == "tree":
            assert parse_qs(urlsplit(self.path).query).get("recursive") == ["true"], self.path
            return _json([_entry(name, content) for name, content in files.items()])
        if what == "preupload":
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if LARGE.search(one["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": _entry(one["path"], files[one["path"]])["oid"] if one["path"] in files else None,
                }
                for one in json.loads(body)["files"]
            ]
            return _json({"files": modes})
        if what == "commit" and method == "POST":
            return self._commit(key, at, [json.loads(line) for line in body.splitlines()])
        raise Refused(404, f"this server does not know {what}")

    def _commit_of(self, repo: Repo, at: str) -> str:
        commit = repo.branches.get(at) or repo.tags.get(at) or (at if at in repo.commits else None)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {at}", "RevisionNotFound")
        return commit

    def _commit(self, key: str, branch: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        hub = self.hub
        repo = hub.repos[key]
        if hub.before_commit is not None:
            hub.before_commit()
        if branch not in repo.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repo.branches[branch]:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[repo.branches[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in hub.objects:
                    raise Refused(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = hub.objects[value["oid"]]
            else:
                assert line["key"] == "deletedFile", line
                del files[value["path"]]
        made = hub.commit(key, branch, files)
        return _json({"commitUrl": f"{hub.url}/{key.removeprefix('models/')}/commit/{made}", "commitOid": made})

    # --- large files --------------------------------------------------------------------------------------------------

    def _batch(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        hub, objects = self.hub, []
        for one in asked["objects"]:
            oid, size = one["oid"], one["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in hub.objects:
                upload: dict[str, Any] = {"href": f"{hub.url}/lfs/{oid}"}
                if hub.chunk is not None and size > hub.chunk:
                    numbers = range(1, -(-size // hub.chunk) + 1)
                    upload["href"] += "/complete"
                    upload["header"] = {"chunk_size": str(hub.chunk)}
                    upload["header"] |= {str(i): f"{hub.url}/lfs/{oid}/{i}" for i in numbers}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{hub.url}/lfs/{oid}/verify"}}
            objects.append(entry)
        return _json({"transfer": "multipart" if hub.chunk else "basic", "objects": objects})

    def _storage(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Addresses signed by the server itself: they need no token."""
        hub = self.hub
        _, _, oid, *rest = path.split("/")
        if method == "PUT":
            if rest:
                hub.parts.setdefault(oid, {})[int(rest[0])] = body
                return 200, {"ETag": hashlib.md5(body).hexdigest()}, b""
            self._store(oid, body)
        elif rest == ["complete"]:
            numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
            self._store(oid, b"".join(hub.parts[oid][number] for number in numbers))
        elif rest == ["verify"] and oid not in hub.objects:
            raise Refused(404, "no such object")
        return _json({})

    def _store(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "the content is not of that hash")
        self.hub.objects[oid] = content

    def _resolve(self, key: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if key not in self.hub.repos:
            raise Refused(404, "Repository not found", "RepoNotFound")
        commit = self._commit_of(self.hub.repos[key], revision)
        files = self.hub.repos[key].commits[commit]
        if name not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content = files[name]
        entry = _entry(name, content)
        tag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Content-Length": str(len(content))}
        return 200, headers, content


def _entry(name: str, content: bytes) -> dict[str, Any]:
    if LARGE.search(name):
        oid = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
        lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
        return {"type": "file", "path": name, "size": len(content), "oid": _git_id(pointer), "lfs": lfs}
    return {"type": "file", "path": name, "size": len(content), "oid": _git_id(content)}


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running server on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
