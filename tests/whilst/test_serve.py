"""The local page: who may ask, what is taken, what ends a run, and, in a real browser, what one sees."""

import http.client
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import browser, needs_chromium
from tests.streams import FPS, frames
from whilst.backbones.base import Backbone
from whilst.checkpoint import Checkpoint, Contract
from whilst.decode import VideoError
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.serve import MARK, ServeError, Server, ServeSettings, make_server
from whilst.serve_page import videos as library
from whilst.serve_page.runs import MOST_WAITING, Outbox
from whilst.video import write_video

OURS = {MARK: "1"}


class SetClock:
    """Time that passes when the test says so; who sleeps waits for that."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        end = self.time + seconds
        while self.time < end and not stop.wait(0.01):
            pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, a folder of images, what is no video, a hidden one, and a link that leads out."""
    outside, path = tmp_path_factory.mktemp("outside"), tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    write_video(path / "a.mp4", frames(rng, 8), FPS)
    write_video(path / "long.mp4", frames(rng, 200), FPS)
    write_video(outside / "secret.mp4", frames(rng, 4), FPS)
    (path / "link.mp4").symlink_to(outside / "secret.mp4")
    (path / "bad.mp4").write_bytes(b"no video at all")
    (path / ".hidden.mp4").write_bytes(b"")
    (path / "notes.txt").write_text("not for a page")
    return path


@pytest.fixture(scope="module")
def checkpoint(backbones: Mapping[str, Backbone]) -> Checkpoint:
    backbone = backbones["qwen3_vl"]
    render = RenderConfig(layout="recurrent_packed", rule="text_memory")
    return Checkpoint(
        backbone, Renderer(backbone.tokenizer, backbone.spec, render), Contract("base", FPS, True, render)
    )


@contextmanager
def serving(checkpoint: Checkpoint, folder: Path, **settings: Any) -> Iterator[Server]:
    clock = settings.pop("clock", None)
    given = {"thought_tokens": 3, "answer_tokens": 3, "idle_seconds": 600.0} | settings
    server = make_server(
        checkpoint,
        ServeSettings(folder, port=0, **given),
        clock=clock,
        log=LOG.append,
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with server:
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


LOG: list[str] = []


@pytest.fixture
def server(checkpoint: Checkpoint, folder: Path) -> Iterator[Server]:
    with serving(checkpoint, folder) as made:
        yield made


def request(
    server: Server, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, sent, (OURS if method == "POST" else {}) | named)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def post(server: Server, path: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    status, _, told = request(server, "POST", path, body, **headers)
    return status, json.loads(told)


def video_id(server: Server, name: str) -> str:
    return next(video.id for video in server.videos.all() if video.name == name)


def start(server: Server, name: str = "a.mp4", **order: Any) -> str:
    status, told = post(server, "/api/runs", {"video": video_id(server, name), **order})
    assert status == 201, told
    return str(told["id"])


class Events:
    """The events of a run, as a page reads them."""

    def __init__(self, server: Server, run: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        self.connection.request("GET", f"/api/runs/{run}/events")
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200 and self.answer.getheader("Content-Type", "").startswith("text/event-stream")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self.answer.readline():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def until(self, kind: str) -> list[dict[str, Any]]:
        found = []
        for event in self:
            found.append(event)
            if event["type"] == kind:
                break
        assert found and found[-1]["type"] == kind, found
        return found

    def vanish(self) -> None:
        """Close the connection without a farewell."""
        held = self.answer.fp.raw._sock  # type: ignore[union-attr]
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.answer.close()
        self.connection.close()


# ---- Watching.


def test_a_run_tells_everything_and_ends(server: Server) -> None:
    run = start(server, standing="tell-when in-1 ?", threshold=1.0)
    events = Events(server, run)
    told = events.until("end")
    assert list(events) == []  # the connection is closed
    kinds = [event["type"] for event in told]
    assert kinds == ["query", *(["frames", "segment", "thought", "answer"] * 4), "end"]
    shown = [image for event in told if event["type"] == "frames" for image in event["images"]]
    assert [image["time"] for image in shown] == [k / FPS for k in range(8)]
    assert all(image["src"].startswith("data:image/png;base64,") for image in shown)
    segments = [event for event in told if event["type"] == "segment"]
    assert [event["end"] for event in segments] == [1.0, 2.0, 3.0, 4.0]
    assert all({"lag", "backlog", "tokens"} <= set(event) for event in segments)
    assert request(server, "GET", f"/api/runs/{run}/events")[0] == 404  # it is over and forgotten


def test_questions_in_mid_stream_are_answered(server: Server) -> None:
    run = start(server, "long.mp4", speed=2.0)
    events = Events(server, run)
    events.until("thought")
    assert post(server, f"/api/runs/{run}/ask", {"text": "which in-1 ?"}) == (202, {"id": "q1"})
    told = events.until("answer")[-1]
    assert told["query"] == "q1" and told["memory_time"] >= 1.0
    assert post(server, f"/api/runs/{run}/stop", {})[0] == 202
    events.until("stopped")


def test_a_long_segment_shows_some_frames_and_says_of_how_many(server: Server) -> None:
    told = Events(server, start(server, "long.mp4", segment=50.0)).until("frames")[-1]
    assert told["of"] == 100 and len(told["images"]) == 8


# ---- Who may ask.


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Host": "evil.example"}, 421),
        ("GET", {"Host": "evil.example:{port}"}, 421),
        ("GET", {"Host": "127.0.0.1"}, 421),
        ("GET", {"Host": "192.168.0.7:{port}"}, 421),
        ("GET", {"Host": ""}, 421),
        ("GET", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("GET", {"Host": "localhost:{port}"}, 200),
        ("GET", {"Host": "[::1]:{port}"}, 200),
        ("POST", {"Host": "evil.example:{port}"}, 421),
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Origin": "https://127.0.0.1:{port}"}, 403),
        ("POST", {"X_Whilst": "0"}, 403),
        ("POST", {"Sec_Fetch_Site": "same-site"}, 403),
        ("POST", {"Origin": "http://127.0.0.1:{port}"}, 404),
    ],
)
def test_other_sites_are_refused(server: Server, method: str, headers: dict[str, str], status: int) -> None:
    named = {name: value.format(port=server.server_port) for name, value in headers.items()}
    path, body = ("/api/state", None) if method == "GET" else ("/api/runs", b'{"video": "none"}')
    found, _, told = request(server, method, path, body, **named)
    assert found == status, told
    assert not server.runs


def test_further_names_are_allowed_by_order(checkpoint: Checkpoint, folder: Path) -> None:
    with serving(checkpoint, folder, names=("box.lan",)) as server:
        assert request(server, "GET", "/api/state", Host=f"Box.lan:{server.server_port}")[0] == 200
        assert request(server, "GET", "/api/state", Host=f"other.lan:{server.server_port}")[0] == 421


def test_every_answer_forbids_what_the_page_does_not_need(server: Server) -> None:
    for path in ("/", "/page.css", "/page.js", "/api/state", "/none"):
        _, headers, _ = request(server, "GET", path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    for path in ("/", "/page.css", "/page.js"):
        status, _, text = request(server, "GET", path)
        assert status == 200 and b"://" not in text and b" style=" not in text


def test_a_run_is_cut_as_in_training_unless_it_is_told_otherwise(checkpoint: Checkpoint, folder: Path) -> None:
    long = replace(checkpoint, contract=replace(checkpoint.contract, segment_seconds=2.0))
    with serving(long, folder) as server:
        assert json.loads(request(server, "GET", "/api/state")[2])["segment"] == 2.0
        assert Events(server, start(server)).until("end")[-1]["segments"] == 2
        assert Events(server, start(server, segment=1.0)).until("end")[-1]["segments"] == 4


# ---- Videos.


def test_only_the_folder_s_videos_are_listed(server: Server, folder: Path) -> None:
    status, _, told = request(server, "GET", "/api/state")
    assert status == 200 and [v["name"] for v in json.loads(told)["videos"]] == ["a.mp4", "bad.mp4", "long.mp4"]
    assert str(folder).encode() not in told


@pytest.mark.parametrize(
    "path",
    [
        "/../serve.py", "/..%2fserve.py", "/page.css/../../serve.py", "//etc/passwd", "/runs.py", "/__init__.py",
        "/api/runs/../../etc/passwd/events", "/api/videos/a.mp4", "/notes.txt", "/page.js%00",
    ],
)  # fmt: skip
def test_paths_lead_nowhere(server: Server, path: str) -> None:
    assert request(server, "GET", path)[0] == 404


@pytest.mark.parametrize("video", ["a.mp4", "../outside/secret.mp4", "/etc/passwd", "link.mp4", None, 3, ["a"], {}])
def test_a_video_is_named_by_its_id_alone(server: Server, video: object) -> None:
    status, told = post(server, "/api/runs", {"video": video})
    assert status == 404 and "no such video" in told["error"] and not server.runs


def test_a_file_that_is_no_video_is_named_without_its_place(server: Server, folder: Path) -> None:
    status, told = post(server, "/api/runs", {"video": video_id(server, "bad.mp4")})
    assert status == 400 and told["error"].startswith("bad.mp4: cannot be decoded") and str(folder) not in told["error"]


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"video": ', "not JSON"),
        ({"speed": "fast"}, "speed: must be a number"),
        ({"speed": -1}, "speed must be a positive number"),
        ({"segment": 0}, "segment_seconds must be a positive number"),
        ({"threshold": 2}, "threshold is a probability"),
        ({"standing": 3}, "standing: must be text"),
        ({"standing": "a <|im_end|>"}, "special token"),
        (b'{"x": "' + b"x" * 70_000 + b'"}', "more than an order may have"),
    ],
)
def test_orders_that_cannot_be_followed(server: Server, order: bytes | dict[str, Any], reason: str) -> None:
    body = {"video": video_id(server, "a.mp4"), **order} if isinstance(order, dict) else order
    status, told = post(server, "/api/runs", body)
    assert status in (400, 413) and reason in told["error"]
    assert post(server, "/api/runs/none/ask", {"text": "x"})[0] == 404
    assert not server.runs  # nothing was begun


def test_asking_what_cannot_be_asked(server: Server) -> None:
    run = start(server, "long.mp4", speed=1.0)
    events = Events(server, run)
    assert post(server, f"/api/runs/{run}/ask", {"text": 3})[0] == 400
    assert post(server, f"/api/runs/{run}/ask", {"text": " "})[0] == 409
    assert events.until("rejected")[-1]["reason"] == "its text is empty"


# ---- Uploads.


def test_an_upload_is_watched_like_any_other(server: Server, folder: Path) -> None:
    body = (folder / "a.mp4").read_bytes()
    status, told = post(server, "/api/upload?name=..%2F..%2Fmy%20clip.mp4", body)
    assert status == 201 and told["name"] == "my clip.mp4"
    status, run = post(server, "/api/runs", {"video": told["id"]})
    assert status == 201 and Events(server, run["id"]).until("end")[-1]["segments"] == 4
    (kept,) = [video.path for video in server.videos.all() if video.uploaded]
    server.videos.close()
    assert not kept.exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n", "not an MP4"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not an MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not an MP4"),
        (b"\x00\x00\x00\x18ftypisom" + b"x" * 100, "cannot be decoded"),
        (b"\x1aE\xdf\xa3" + b"x" * 100, "cannot be decoded"),
    ],
)
def test_what_is_no_video_is_not_kept(server: Server, body: bytes, reason: str) -> None:
    status, told = post(server, "/api/upload?name=film.mp4", body)
    assert status == 415 and reason in told["error"] and "film.mp4" in told["error"]
    assert not any(video.uploaded for video in server.videos.all())
    assert list(Path(server.videos._kept.name).iterdir()) == []


def test_an_upload_that_is_too_large_is_not_read(checkpoint: Checkpoint, folder: Path) -> None:
    body = (folder / "a.mp4").read_bytes()
    with serving(checkpoint, folder, upload_bytes=len(body) - 1) as server:
        status, told = post(server, "/api/upload?name=a.mp4", body)
        assert status == 413 and f"limit of {len(body) - 1}" in told["error"]
    with serving(checkpoint, folder, upload_bytes=len(body)) as server:
        assert post(server, "/api/upload?name=a.mp4", body)[0] == 201
        assert post(server, "/api/upload?name=a.mp4", b"")[0] == 411


def test_an_upload_that_breaks_off_is_not_kept(server: Server, folder: Path) -> None:
    body = (folder / "a.mp4").read_bytes()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as client:
        head = f"POST /api/upload?name=a.mp4 HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n{MARK}: 1\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-100])
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 400") and b"broke off 100 bytes before its end" in answer
    assert list(Path(server.videos._kept.name).iterdir()) == []


def test_uploads_are_few(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MOST_UPLOADS", 1)
    body = (folder / "a.mp4").read_bytes()
    assert [post(server, "/api/upload", body)[0] for _ in range(2)] == [201, 507]
    monkeypatch.setattr(library, "MOST_PIXELS", 100)
    monkeypatch.setattr(library, "MOST_UPLOADS", 2)
    status, told = post(server, "/api/upload", body)
    assert status == 415 and "48 x 32 pixels are too large" in told["error"]


# ---- Runs end, each by itself.


def test_a_page_that_vanishes_ends_its_run_and_no_other(server: Server) -> None:
    first, second = start(server, "long.mp4", speed=50.0), start(server, "long.mp4", speed=50.0)
    runs = dict(server.runs)
    gone, stays = Events(server, first), Events(server, second)
    gone.until("thought")
    stays.until("thought")
    gone.vanish()
    assert runs[first].over.wait(60)
    assert stays.until("end")[-1]["segments"] == 100
    assert runs[second].over.wait(60)


def test_a_run_has_one_reader(server: Server) -> None:
    run = start(server, "long.mp4", speed=1.0)
    events = Events(server, run)
    events.until("frames")
    assert request(server, "GET", f"/api/runs/{run}/events")[0] == 409
    post(server, f"/api/runs/{run}/stop", {})
    events.until("stopped")


def test_runs_are_few(checkpoint: Checkpoint, folder: Path) -> None:
    with serving(checkpoint, folder, sessions=1) as server:
        run = start(server, "long.mp4", speed=1.0)
        status, told = post(server, "/api/runs", {"video": video_id(server, "a.mp4")})
        assert status == 503 and "stop one first" in told["error"]
        events = Events(server, run)
        over = server.runs[run].over
        post(server, f"/api/runs/{run}/stop", {})
        events.until("stopped")
        assert over.wait(60)
        start(server)


def test_a_run_that_nobody_reads_ends(checkpoint: Checkpoint, folder: Path) -> None:
    clock = SetClock()
    with serving(checkpoint, folder, clock=clock, idle_seconds=30.0) as server:
        read, unread = start(server, "long.mp4", speed=1.0), start(server, "long.mp4", speed=1.0)
        runs = dict(server.runs)
        events = Events(server, read)
        clock.time = 2.0
        events.until("frames")
        clock.time = 29.0
        server.reap()
        assert set(server.runs) == {read, unread}
        clock.time = 31.0
        assert runs[unread].over.wait(60)
        server.reap()
        assert unread not in server.runs and "nobody looked at it for 30 s" in "".join(LOG)
        post(server, f"/api/runs/{read}/stop", {})


def test_a_stream_that_fails_tells_its_page_and_the_server_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> Iterator[tuple[float, np.ndarray]]:
        yield 0.0, np.zeros((32, 48, 3), np.uint8)
        raise VideoError(f"{server.videos.folder}/a.mp4: damaged at 0.5 s")

    with monkeypatch.context() as patch:
        patch.setattr("whilst.pace.stream_frames", dies)
        events = Events(server, start(server))
        assert events.until("failed")[-1]["reason"] == "a.mp4: damaged at 0.5 s"
    assert Events(server, start(server)).until("end")[-1]["segments"] == 4


def test_an_outbox_that_nobody_empties_ends_its_run() -> None:
    full: list[bool] = []
    outbox = Outbox(lambda: full.append(True))
    for k in range(MOST_WAITING + 5):
        outbox.put({"k": k})
    assert full == [True] and len(outbox.take(0.0) or ()) == MOST_WAITING + 1 and outbox.take(0.0) is None


def test_leaving_ends_everything(checkpoint: Checkpoint, folder: Path) -> None:
    with serving(checkpoint, folder) as server:
        run = server.runs[start(server, "long.mp4", speed=1.0)]
    assert run.over.is_set() and not Path(server.videos._kept.name).exists()


# ---- Where it listens.


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1" == ServeSettings(Path()).host
    assert server.address == f"http://127.0.0.1:{server.server_port}/"


def test_a_port_that_is_taken_and_a_folder_that_is_not_there(
    server: Server, checkpoint: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ServeError, match="choose another --port"):
        make_server(checkpoint, ServeSettings(folder, port=server.server_port))
    with pytest.raises(VideoError, match="no such folder"):
        make_server(checkpoint, ServeSettings(tmp_path / "none"))


# ---- In a browser.


@needs_chromium
def test_the_page_in_a_browser(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    clock = SetClock()  # the stream stays where it is while pictures are taken
    with serving(checkpoint, folder, clock=clock) as server, browser(tmp_path / "profile") as page:
        page.resize(1280, 860)
        page.open(server.address)
        page.until("document.querySelector('#video').length === 3")
        page.js(
            """(() => {
              document.querySelector("#video").value = [...document.querySelector("#video").options]
                .find((option) => option.text === "long.mp4").value;
              document.querySelector("#start").click();
            })()"""
        )
        page.until("document.querySelector('#state').textContent === 'watching'")
        clock.time = 10.0
        page.until("document.querySelectorAll('#feed .thought').length >= 2")
        page.js("document.querySelector('#question').value = 'which in-1 ?'; document.querySelector('#send').click()")
        page.until("document.querySelector('#feed .answer small')")
        assert "which in-1 ?" in page.js("document.querySelector('#feed .answer small').textContent")
        assert page.js("document.querySelector('#feed .query p').textContent") == "which in-1 ?"
        assert page.js("document.querySelector('#state').textContent") == "watching"
        page.until("document.querySelectorAll('#strip img').length >= 4")
        assert page.js("document.querySelector('#screen img').naturalWidth") == 48
        for chart in ("lag", "backlog", "tokens"):
            points = page.js(f"document.querySelector('#{chart} polyline').getAttribute('points')").split()
            assert len(points) >= 2 and not any("NaN" in point for point in points)
        assert page.js("document.querySelector('#tokens b').textContent").endswith(" tokens")
        light = page.picture(tmp_path / "light.png")
        page.resize(1280, 860, dark=True)
        dark = page.picture(tmp_path / "dark.png")
        assert light.stat().st_size > 10_000 and brightness(light) > 170 > 70 > brightness(dark)
        assert page.js("document.documentElement.scrollWidth") <= 1280
        page.resize(400, 860)
        assert page.js("document.documentElement.scrollWidth") <= 400  # nothing sticks out on a phone
        run = next(iter(server.runs.values()))
        page.js("document.querySelector('#stop').click()")
        page.until("document.querySelector('#state').textContent === 'stopped'")
        assert run.over.wait(60)


def brightness(path: Path) -> float:
    """The median grey level of a picture."""
    from PIL import Image

    with Image.open(path) as image:
        return float(np.median(np.asarray(image.convert("L"))))


@needs_chromium
def test_markup_in_what_is_said_stays_text(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        page.open(server.address)
        page.until("document.querySelector('#video').length === 3")
        page.js(
            """(() => {
              document.querySelector("#standing").value = "<img src=x onerror=alert(1)> ?";
              document.querySelector("#speed").value = "";
              document.querySelector("#start").click();
            })()"""
        )
        page.until("document.querySelector('#state').textContent.startsWith('over')")
        assert page.js("document.querySelectorAll('#feed img').length") == 0
        assert "<img src=x" in page.js("document.querySelector('#feed .query p').textContent")


@needs_chromium
def test_closing_the_page_ends_its_run(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        page.open(server.address)
        page.until("document.querySelector('#video').length === 3")
        page.js(
            """(() => {
              const videos = document.querySelector("#video");
              videos.value = [...videos.options].find((option) => option.text === "long.mp4").value;
              document.querySelector("#start").click();
            })()"""
        )
        page.until("document.querySelectorAll('#feed .thought').length >= 1")
        run = next(iter(server.runs.values()))
        page.open("about:blank")
        assert run.over.wait(60)
    assert run.stream.ask("still there ?") is None


@needs_chromium
def test_an_upload_in_the_browser(server: Server, folder: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        page.open(server.address)
        page.until("document.querySelector('#video').length === 3")
        root = page.do("DOM.getDocument")["root"]["nodeId"]
        for file, ready in (("a.mp4", "#video').length === 4"), ("bad.mp4", "#trouble').hidden === false")):
            node = page.do("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
            page.do("DOM.setFileInputFiles", nodeId=node, files=[str(folder / file)])
            page.until(f"document.querySelector('{ready}")
        assert page.js("document.querySelector('#video').selectedOptions[0].text") == "a.mp4 (uploaded)"
        assert "not an MP4" in page.js("document.querySelector('#trouble').textContent")
