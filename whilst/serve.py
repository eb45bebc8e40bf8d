"""`whilst serve`: a local page that watches videos as streams: frames, thoughts with their time, questions mid-stream.

Plain HTTP of the standard library, one thread a request, and server-sent events from a run to its page. Whoever may
talk to it may use the machine's processor and see the videos of the folder, so it listens on 127.0.0.1 unless told
otherwise, answers only to its own names (a rebound DNS name is another), and takes orders only from its own page: what
changes something needs a header that no other site's page can send.

A run belongs to the page that reads its events: when that page goes, or does not come within `idle_seconds`, it ends.
"""

from __future__ import annotations

import ipaddress
import json
import re
import select
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from whilst.checkpoint import Checkpoint
from whilst.decode import VideoError
from whilst.engines import LiveError, LiveSettings
from whilst.pace import Clock, WallClock, open_source
from whilst.proactive import Proactive, ProactiveError
from whilst.render import RenderError
from whilst.runtime import RuntimeStateError
from whilst.serve_page.runs import Run, stop_all
from whilst.serve_page.videos import UploadError, Videos

PARTS = Path(__file__).parent / "serve_page"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MARK = "X-Whilst"  # a header that makes a request one that another site's page cannot send without being asked about
MOST_JSON = 64 * 1024  # bytes of an order
BEAT = 1.0  # seconds after which a quiet connection is looked at
PATIENCE = 30.0  # seconds that a client may take for the next bytes, read or written


class ServeError(ValueError):
    """A setting of the server that cannot be used."""


class Refused(Exception):
    """A request that is not served: an HTTP status and a reason that the client may read."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class ServeSettings:
    """videos: the folder. names: further names of this host. sessions: streams at a time. idle_seconds: how long a
    stream goes on that no page reads. upload_bytes: of one upload; 0: none is taken."""

    videos: Path
    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()
    sessions: int = 4
    idle_seconds: float = 30.0
    upload_bytes: int = 200_000_000
    thought_tokens: int = 64
    answer_tokens: int = 64


def make_server(
    checkpoint: Checkpoint,
    settings: ServeSettings,
    *,
    clock: Clock | None = None,
    log: Callable[[str], None] | None = None,
) -> Server:
    """The server, listening. Raises VideoError without the folder, ServeError for an address that cannot be had."""
    videos = Videos(settings.videos, settings.upload_bytes)
    try:
        return Server(checkpoint, settings, videos, clock or WallClock(), log or _to_stderr)
    except OSError as error:
        videos.close()
        raise ServeError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose another --port"
        ) from error


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Server(ThreadingHTTPServer):
    """Videos, runs and who may ask for them. `serve_forever` serves; leaving the with-statement ends all runs."""

    daemon_threads = True

    def __init__(
        self, checkpoint: Checkpoint, settings: ServeSettings, videos: Videos, clock: Clock, log: Callable[[str], None]
    ) -> None:
        self.checkpoint, self.settings, self.videos, self.clock, self.log = checkpoint, settings, videos, clock, log
        self.runs: dict[str, Run] = {}
        self.lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        super().__init__((settings.host, settings.port), Handler)

    @property
    def address(self) -> str:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.server_port}/"

    def server_bind(self) -> None:
        # not HTTPServer's, which asks the network for the host's full name
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.settings.host, self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):  # a client that goes away is no news
            self.log(f"a request failed: {type(error).__name__}: {error}")

    def service_actions(self) -> None:
        """Called twice a second: end what nobody looks at, forget what is over."""
        self.reap()

    def reap(self) -> None:
        now = self.clock.now()
        with self.lock:
            runs = list(self.runs.values())
        for run in runs:
            if not run.read and not run.over.is_set() and now - run.seen > self.settings.idle_seconds:
                self.log(f"run {run.id[:6]} ended: nobody looked at it for {self.settings.idle_seconds:g} s")
                run.stop()
            if not run.read and run.over.is_set() and now - run.seen > self.settings.idle_seconds:
                with self.lock:
                    self.runs.pop(run.id, None)

    def start(self, video: object, settings: LiveSettings) -> Run:
        """A new run of a video. Raises Refused when there is no such video, or no room."""
        found = self.videos.get(video)
        if found is None:
            raise Refused(404, "there is no such video: reload the page")
        source = open_source(found.path, self.checkpoint.contract.fps)
        with self.lock:
            running = sum(not run.over.is_set() for run in self.runs.values())
            if running >= self.settings.sessions:
                raise Refused(503, f"{running} streams run already, the most that are allowed: stop one first")
            run = Run(self.checkpoint, source, settings, self.clock, self.log, self.without_paths)
            self.runs[run.id] = run
        run.start()
        return run

    def without_paths(self, text: str) -> str:
        """An error's text without the place of the videos on this machine."""
        for video in self.videos.all():
            text = text.replace(str(video.path), video.name)
        return text

    def forget(self, run: Run) -> None:
        """The page of a run has gone."""
        run.stop()
        with self.lock:
            self.runs.pop(run.id, None)

    def knows(self, host: str) -> bool:
        """Whether a Host header is one of this server's names. Addresses cannot be rebound, names can."""
        name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "80")
        if port != str(self.server_port):
            return False
        name = name.strip("[]").lower()
        if name in ("localhost", *(known.lower() for known in (self.settings.host, *self.settings.names))):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return not _is_local(self.settings.host) or address.is_loopback

    def server_close(self) -> None:
        super().server_close()
        with self.lock:
            runs, self.runs = list(self.runs.values()), {}
        stop_all(runs)
        self.videos.close()


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


class _Body:
    """The body of a request: `left` bytes of it are not read yet."""

    def __init__(self, file: BufferedIOBase, length: int) -> None:
        self._file, self.left = file, length

    def read(self, size: int, /) -> bytes:
        read = self._file.read(min(size, self.left))
        self.left -= len(read)
        return read


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    server_version, sys_version = "whilst", ""
    timeout = PATIENCE

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _serve(self, work: Callable[[str], None]) -> None:
        length = self.headers.get("Content-Length", "")
        self._body = _Body(self.rfile, int(length) if length.isascii() and length.isdigit() else 0)
        try:
            self._check_sender()
            work(urlsplit(self.path).path)
        except (Refused, UploadError) as error:
            self._drain()
            self._json(error.status, {"error": str(error)})
        except (VideoError, LiveError, ProactiveError, RenderError, RuntimeStateError) as error:
            self._json(400, {"error": self.server.without_paths(str(error))})

    # --- who asks ---------------------------------------------------------------------------------------------------

    def _check_sender(self) -> None:
        host = self.headers.get("Host", "")
        if not self.server.knows(host):
            raise Refused(421, f"this server is not {host!r}: open {self.server.address} or pass --allow-host")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused(403, "another site's page asks")
        if self.command == "GET":
            return
        origin = self.headers.get("Origin")
        if (origin is not None and origin != f"http://{host}") or self.headers.get(MARK) != "1":
            raise Refused(403, "this is not asked by this server's own page")

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _get(self, path: str) -> None:
        if path in FILES:
            name, kind = FILES[path]
            self._send(200, kind, (PARTS / name).read_bytes())
        elif path == "/api/state":
            self._json(200, self._state())
        elif events := re.fullmatch(r"/api/runs/([\w-]+)/events", path):
            self._events(self._run(events[1]))
        else:
            raise Refused(404, "there is nothing here")

    def _post(self, path: str) -> None:
        if path == "/api/upload":
            self._upload()
        elif path == "/api/runs":
            run = self.server.start(*self._wanted(self._order()))
            self._json(201, {"id": run.id, "duration": run.stream.source.duration})
        elif ask := re.fullmatch(r"/api/runs/([\w-]+)/ask", path):
            run, text = self._run(ask[1]), self._order().get("text")
            if not isinstance(text, str):
                raise Refused(400, "text: must be the question")
            id = run.stream.ask(text)
            if id is None:
                raise Refused(409, "the question was not taken: the stream says why")
            self._json(202, {"id": id})
        elif stop := re.fullmatch(r"/api/runs/([\w-]+)/stop", path):
            self._run(stop[1]).stop()
            self._json(202, {})
        else:
            raise Refused(404, "there is nothing here")

    def _state(self) -> dict[str, Any]:
        server, contract = self.server, self.server.checkpoint.contract
        return {
            "videos": [{"id": v.id, "name": v.name, "uploaded": v.uploaded} for v in server.videos.all()],
            "layout": contract.render.layout,
            "fps": contract.fps,
            "segment": contract.cut_seconds,
            "thinks": contract.thinks,
            "upload_bytes": server.settings.upload_bytes,
        }

    def _run(self, id: str) -> Run:
        with self.server.lock:
            run = self.server.runs.get(id)
        if run is None:
            raise Refused(404, "there is no such stream, or it is over")
        return run

    def _wanted(self, order: dict[str, Any]) -> tuple[object, LiveSettings]:
        """Video id and settings of an order to start."""
        standing = order.get("standing") or ""
        if not isinstance(standing, str):
            raise Refused(400, "standing: must be text")
        numbers = {}
        for name in ("speed", "segment", "threshold"):
            value = order.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise Refused(400, f"{name}: must be a number")
            numbers[name] = None if value is None else float(value)
        contract = self.server.checkpoint.contract
        settings = LiveSettings(
            segment_seconds=contract.cut_seconds if numbers["segment"] is None else numbers["segment"],
            thought_tokens=self.server.settings.thought_tokens,
            answer_tokens=self.server.settings.answer_tokens,
            thinks=contract.thinks,
            speed=numbers["speed"],
            standing=(standing.strip(),) if standing.strip() else (),
            proactive=Proactive(threshold=numbers["threshold"]),
        )
        return order.get("video"), settings

    def _drain(self) -> None:
        """Read what is left of a small body: closing the connection on it could take the answer away."""
        if self._body.left <= MOST_JSON:
            self._body.read(self._body.left)

    def _order(self) -> dict[str, Any]:
        size = self._body.left
        if size > MOST_JSON:
            raise Refused(413, f"{size} bytes are more than an order may have")
        try:
            order = json.loads(self._body.read(size))
        except ValueError as error:
            raise Refused(400, "the order is not JSON") from error
        if not isinstance(order, dict):
            raise Refused(400, "the order is not a JSON object")
        return order

    def _upload(self) -> None:
        name = parse_qs(urlsplit(self.path).query).get("name", ["upload"])[0]
        if not self._body.left:
            raise Refused(411, "the upload is empty, or its length is not given")
        video = self.server.videos.upload(name, self._body.left, self._body)
        self._json(201, {"id": video.id, "name": video.name})

    # --- answers ----------------------------------------------------------------------------------------------------

    def _events(self, run: Run) -> None:
        """Everything that happens in a run, as server-sent events, until it is over or the page has gone."""
        with self.server.lock:
            if run.read:
                raise Refused(409, "another page reads this stream")
            run.read = True
        try:
            self._head(200, "text/event-stream; charset=utf-8")
            while (messages := run.outbox.take(BEAT)) is not None and not self._gone():
                text = "".join(f"data: {message}\n\n" for message in messages) or ": still here\n\n"
                self.wfile.write(text.encode())
                self.wfile.flush()
        finally:
            self.server.forget(run)

    def _gone(self) -> bool:
        """Whether the client has closed the connection: it sends nothing more, so there is something to read."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable)

    def _json(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(value, ensure_ascii=False).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self._head(status, kind, len(body))
        self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(HTTPStatus(status))
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
