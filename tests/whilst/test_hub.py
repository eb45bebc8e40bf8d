"""Pushing to the Hub over real HTTP: what is published, what a failure leaves, what a second run sends, no token."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from tests.hub_server import TOKEN, Hub, hub_server
from whilst import hub as pushing
from whilst.checkpoint import CONTRACT, Contract
from whilst.exported import ExportError, read_exported, writing
from whilst.hub import HubError, Pushed, Target, plan, push
from whilst.recipe import save_resolved
from whilst.render_config import RenderConfig
from whilst.session import StreamSession

REPO = "me/streamer"
KEY = f"models/{REPO}"
SHARDS = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Hub) -> Iterator[None]:
    """This process may use the network, which is the test's server; it retries as ever, without the long pauses."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(pushing, "WAITS", (0.01, 0.01, 0.01))
    lfs = huggingface_hub.lfs
    monkeypatch.setattr(lfs, "http_backoff", partial(lfs.http_backoff, base_wait_time=0.01, max_wait_time=0.02))
    huggingface_hub.close_session()  # which remembers that it was offline
    yield
    huggingface_hub.close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported folder of three large files and two small ones."""
    out = tmp_path / "exported"
    rng = np.random.default_rng(0)
    with writing(out, "model") as part:
        for name in SHARDS:
            (part / name).write_bytes(rng.bytes(1 << 16))
        (part / "config.json").write_text("{}\n")
        (part / "README.md").write_text("---\nlicense: apache-2.0\n---\n# streamer\n")
    return out


def pushed(folder: Path, say: list[str] | None = None, **target: object) -> Pushed:
    said: list[str] = [] if say is None else say
    return push(read_exported(folder), Target(**{"repo": REPO, **target}), said.append)  # type: ignore[arg-type]


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def published(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    return {name: content for name, content in hub.files(KEY, revision).items() if name != ".gitattributes"}


@pytest.mark.usefixtures("online")
def test_a_push_is_private_whole_and_tagged(hub: Hub, folder: Path) -> None:
    done = pushed(folder, tag="v1")
    assert (done.url, done.files) == (f"{hub.url}/{REPO}", 6)
    assert hub.repos[KEY].private
    assert published(hub) == held(folder)
    assert hub.repos[KEY].tags == {"v1": done.commit} and hub.repos[KEY].branches == {"main": done.commit}
    assert len(hub.repos[KEY].commits) == 2  # the repository's own first one, and ours: one for all files
    # order: files to storage, then the commit, then what was committed is read back, and only then the tag
    what = [(method, path.split("/")[-2 if "commit" in path or "tag" in path else -1]) for method, path in hub.requests]
    commit, tag = what.index(("POST", "commit")), what.index(("POST", "tag"))
    assert max(i for i, (method, _) in enumerate(what) if method == "PUT") < commit
    assert any(f"/tree/{done.commit}" in path for _, path in hub.requests[commit:tag])
    puts = hub.count("PUT", "/lfs/")
    assert pushed(folder, tag="v1") == done  # nothing to do: the same commit, no request that writes
    assert hub.count("PUT", "/lfs/") == puts == 3 and hub.count("POST", "/commit/") == 1


@pytest.mark.usefixtures("online")
def test_public_and_a_branch_are_as_asked(hub: Hub, folder: Path) -> None:
    done = pushed(folder, public=True, revision="step-100")
    assert not hub.repos[KEY].private
    assert published(hub, "step-100") == held(folder) and published(hub) == {}
    assert hub.repos[KEY].branches["step-100"] == done.commit and not hub.repos[KEY].tags
    with pytest.raises(HubError, match="is public already, and a push does not change that: pass --public"):
        pushed(folder)


@pytest.mark.usefixtures("online")
def test_parts_of_large_files_and_what_an_earlier_push_left(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.chunk = 30_000
    pushed(folder, tag="v1")
    assert published(hub) == held(folder)
    assert hub.count("PUT", "/lfs/") == 9 and hub.count("POST", "/complete") == 3
    smaller = tmp_path / "smaller"
    with writing(smaller, "model") as part:
        (part / "model.safetensors").write_bytes(b"one shard")
    pushed(smaller, tag="v2")
    # three shards beside a whole model would be read by some loaders; other files of the owner stay
    assert set(published(hub)) == {"model.safetensors", "export.json", "config.json", "README.md"}
    assert published(hub, "v1") == held(folder)
    with pytest.raises(HubError, match="tag v1 is on another commit .* tags are not moved: choose another"):
        pushed(smaller, tag="v1")


@pytest.mark.usefixtures("online")
def test_a_dataset_goes_to_a_repository_of_datasets(hub: Hub, tmp_path: Path) -> None:
    for shards in (2, 1):  # of the first push, the second shard must not stay beside the new first one
        with writing(tmp_path / "data", "dataset", overwrite=True) as part:
            (part / "data").mkdir()
            for i in range(shards):
                (part / "data" / f"train-{i:05d}-of-{shards:05d}.parquet").write_bytes(b"PAR1 of %d" % shards)
            (part / "README.md").write_text("---\nlicense: unknown\n---\n")
        done = pushed(tmp_path / "data", tag=f"v{shards}")
        assert done.url == f"{hub.url}/datasets/{REPO}"
    assert set(hub.repos) == {f"datasets/{REPO}"}
    names = [sorted(name for name in hub.files(f"datasets/{REPO}", tag) if "data" in name) for tag in ("v1", "v2")]
    assert names[0] == ["data/train-00000-of-00001.parquet"]
    assert names[1] == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("kind", [500, "cut", "lost"])
def test_what_passes_by_itself_is_retried(hub: Hub, folder: Path, kind: int | str) -> None:
    for method, part in (("PUT", "/lfs/"), ("POST", "objects/batch"), ("POST", "/commit/"), ("POST", "/tag/")):
        hub.fault(method, part, kind)
    for part in ("whoami", "/tree/", "/refs"):
        hub.fault("GET", part, kind)
    done = pushed(folder, tag="v1")
    assert published(hub, "v1") == held(folder)
    assert hub.repos[KEY].tags == {"v1": done.commit}
    assert len(hub.repos[KEY].commits) == 2  # a commit whose answer was lost is found, not made twice


@pytest.mark.usefixtures("online")
def test_an_upload_that_keeps_failing_ends_clearly_and_goes_on_later(hub: Hub, folder: Path) -> None:
    hub.fault("PUT", "/lfs/", 500, times=99, after=1)
    with pytest.raises(HubError) as failed:
        pushed(folder, tag="v1")
    said = str(failed.value)
    assert said.startswith(f"{REPO}: could not send {SHARDS[1]}: ") and "500" in said
    assert "run the same command again: what is in the storage is not sent twice" in said
    assert "Branch main is as it was; 4 of 6 files are prepared or in the Hub's storage, unseen" in said
    assert 1 < hub.count("PUT", "/lfs/") <= 8  # one that went well, and bounded tries of the second
    assert published(hub) == {} and not hub.repos[KEY].tags and hub.count("POST", "/commit/") == 0
    hub.faults.clear()
    hub.requests.clear()
    pushed(folder, tag="v1")
    assert hub.count("PUT", "/lfs/") == 2  # the first shard is not sent again
    assert published(hub, "v1") == held(folder)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("served", (0, 4, 9))
def test_a_token_that_expires_leaves_no_half_revision(hub: Hub, folder: Path, served: int) -> None:
    hub.expires = served
    with pytest.raises(HubError, match="the token is not valid, or no longer .401.; set HF_TOKEN") as failed:
        pushed(folder, tag="v1")
    assert TOKEN not in str(failed.value)
    if served == 0:
        assert hub.requests == [("GET", "/api/whoami-v2")] and str(failed.value).endswith("Nothing was sent.")
    if KEY in hub.repos:
        assert published(hub) == {} and not hub.repos[KEY].tags
    hub.expires = None
    pushed(folder, tag="v1")
    assert published(hub, "v1") == held(folder) and hub.count("PUT", "/lfs/") == 3


@pytest.mark.usefixtures("online")
def test_somebody_elses_commit_is_not_overwritten(hub: Hub, folder: Path) -> None:
    pushed(folder)
    (folder / "config.json").write_text('{"new": 1}\n')
    with pytest.raises(ExportError, match=r"not what was exported: config.json was changed; export it again"):
        read_exported(folder)
    shutil.rmtree(folder)
    with writing(folder, "model") as part:
        (part / "config.json").write_text('{"new": 1}\n')
    theirs: list[str] = []
    hub.before_commit = lambda: theirs.append(hub.commit(KEY, "main", {"theirs": b"1"})) if not theirs else None
    with pytest.raises(HubError, match=r"somebody else changed the branch meanwhile .412.; run the same command again"):
        pushed(folder, tag="v1")
    assert published(hub) == {"theirs": b"1"} and not hub.repos[KEY].tags
    pushed(folder, tag="v1")
    assert published(hub) == {"theirs": b"1", **held(folder)}


@pytest.mark.usefixtures("online")
def test_no_tag_where_the_hub_holds_something_else(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Hub.commit

    def careless(self: Hub, key: str, branch: str, files: dict[str, bytes]) -> str:
        return commit(self, key, branch, {name: c[:-1] if name == SHARDS[2] else c for name, c in files.items()})

    monkeypatch.setattr(Hub, "commit", careless)
    with pytest.raises(HubError, match=rf"is not what was sent: {SHARDS[2]} has 65535 bytes, not 65536\. "):
        pushed(folder, tag="v1")
    assert not hub.repos[KEY].tags and hub.count("POST", "/tag/") == 0


@pytest.mark.usefixtures("online")
def test_a_slow_hub_is_waited_for(hub: Hub, folder: Path) -> None:
    slow = threading.Event()
    hub.fault("PUT", "/lfs/", slow)
    worker: list[Pushed] = []
    thread = threading.Thread(target=lambda: worker.append(pushed(folder)), daemon=True)
    thread.start()
    while hub.count("PUT", "/lfs/") == 0 and thread.is_alive():
        thread.join(0.01)
    assert not worker and published(hub) == {}
    slow.set()
    thread.join(60)
    assert worker and published(hub) == held(folder)


def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(
    hub: Hub, folder: Path, online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="'streamer' is no id on the Hub; write it as owner/name"):
        pushed(folder, repo="streamer")
    hub.role = "read"
    with pytest.raises(HubError, match="the token may only read"):
        pushed(folder)
    assert not hub.repos
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    hub.requests.clear()
    with pytest.raises(HubError, match="no token: set HF_TOKEN, or log in"):
        pushed(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        pushed(folder)
    lines = plan(read_exported(folder), Target(REPO, tag="v1"))  # a plan needs no network
    assert lines[0].endswith(f"in 6 files to {hub.url}: {REPO} (model, private), branch main")
    assert len(lines) == 8 and all(any(name in line for line in lines) for name in held(folder))
    assert hub.requests == []


# ---- The command, in a process of its own.


def started(hub: Hub, tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        **{"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")},
    }
    line = [sys.executable, "-m", "whilst.cli", "export", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def command(hub: Hub, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    process = started(hub, tmp_path, *arguments)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.usefixtures("online")
def test_a_push_that_is_killed_publishes_nothing_and_goes_on(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second file, again in the middle of the commit: main stays as it was. The next push
    sends what is missing, and all of it appears in one commit."""
    running: list[subprocess.Popen[str]] = []

    def kill() -> None:
        running[-1].kill()

    hub.fault("PUT", "/lfs/", kill, after=1)
    hub.fault("POST", "/commit/", kill)
    heads = []
    for stored in (1, 3):
        running.append(started(hub, tmp_path, folder, "--push-to-hub", REPO, "--tag", "v1"))
        _, stderr = running[-1].communicate(timeout=300)
        assert running[-1].returncode == -signal.SIGKILL, stderr
        assert published(hub) == {} and not hub.repos[KEY].tags and len(hub.objects) == stored
        heads.append(dict(hub.repos[KEY].branches))
    assert heads[0] == heads[1] and len(hub.repos[KEY].commits) == 1
    assert hub.count("PUT", "/lfs/") == 4  # the first file once; the second, which was cut, twice; the third once
    hub.requests.clear()
    done = pushed(folder, tag="v1")
    assert hub.count("PUT", "/lfs/") == 0 and hub.count("POST", "/commit/") == 1
    assert published(hub) == published(hub, "v1") == held(folder)
    assert hub.repos[KEY].branches == {"main": done.commit} and len(hub.repos[KEY].commits) == 2


def test_the_command_never_shows_the_token(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.echo = True  # a server that says the token back
    dry = command(hub, tmp_path, folder, "--push-to-hub", REPO, "--tag", "v1", "--dry-run")
    assert dry.returncode == 0 and SHARDS[0] in dry.stdout and hub.requests == [], dry.stderr
    outputs = [dry, command(hub, tmp_path, folder, "--push-to-hub", REPO, "--adapter")]
    assert outputs[-1].returncode == 2 and "for a training's folder" in outputs[-1].stderr
    hub.fault("POST", "/commit/", 400)
    outputs.append(command(hub, tmp_path, folder, "--push-to-hub", REPO, "--tag", "v1", "--traceback"))
    assert outputs[-1].returncode == 1 and "HubError" in outputs[-1].stderr and "***" in outputs[-1].stderr
    outputs.append(command(hub, tmp_path, folder, "--push-to-hub", REPO, "--tag", "v1"))
    assert outputs[-1].returncode == 0 and f"{hub.url}/{REPO}" in outputs[-1].stdout, outputs[-1].stderr
    assert published(hub, "v1") == held(folder)
    hub.expires = 0
    outputs.append(command(hub, tmp_path, folder, "--push-to-hub", REPO))
    assert outputs[-1].returncode == 2 and outputs[-1].stderr.startswith("error: ")
    for output in outputs:
        assert TOKEN not in output.stdout + output.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


# ---- And back.


def stream(session: StreamSession) -> list[object]:
    """What a session says of three segments of noise."""
    rng = np.random.default_rng(0)
    said: list[object] = []
    with session:
        for i in range(3):
            session.watch(rng.integers(0, 255, (2, 32, 32, 3), dtype=np.uint8), [i, i + 0.5], i + 1.0)
            said.append(session.think().ids)
        said.append((session.ask("which in-1 ?").ids, session.fps))
        said.append(session.tokens)  # which the memory policy keeps few
    return said


@pytest.mark.usefixtures("online")
def test_a_pushed_model_streams_as_the_local_one(
    hub: Hub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    render = RenderConfig(layout="interleaved", rule="causal")
    policy = ({"name": "sink_window", "sink": 4, "window": 16, "vision_seconds": 2.0},)
    with writing(out, "model") as part:
        shutil.copytree(checkpoint, part, dirs_exist_ok=True)
        save_resolved(Contract("not-published", 2.0, True, render, policy=policy), part / CONTRACT)
    pushed(out, tag="v1")
    local = stream(StreamSession.from_pretrained(out, thought_tokens=5))
    assert stream(StreamSession.from_pretrained(REPO, thought_tokens=5)) == local
    assert stream(StreamSession.from_pretrained(REPO, revision="v1", thought_tokens=5)) == local
    assert stream(StreamSession.from_pretrained(REPO, thought_tokens=5, policy=None))[-1] > local[-1]  # type: ignore
    requests = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert stream(StreamSession.from_pretrained(REPO, thought_tokens=5)) == local  # from the cache
    with pytest.raises(ValueError, match="me/other: no such folder here, and not to be had from the Hub"):
        StreamSession.from_pretrained("me/other")
    assert len(hub.requests) == requests
