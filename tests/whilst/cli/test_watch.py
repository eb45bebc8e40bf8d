"""`whilst watch` through the door: what it prints, and what it says of mistakes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.whilst.cli.command import ROOT, fails, invoke
from whilst.sample import read_samples
from whilst.video import VideoError, write_video


def test_watch_answers_at_the_moment_of_the_query(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    seconds = int(first.segments()[-1].end)
    asked = [(0.0, "now star ?"), (1.0, "which in-1 ?"), (1.5, "count in ?"), (99.0, "count out ?")]
    questions = [part for time, text in asked for part in ("--ask", f"{time:g}:{text}")]
    code, told, _, _ = invoke(
        "watch",
        first.video.path,
        "--model",
        streaming,
        *questions,
        "--json",
        "--thought-tokens",
        3,
        "--answer-tokens",
        2,
    )
    assert code == 0
    events = [json.loads(line) for line in told.splitlines()]
    said = [one for one in events if one["type"] in ("thought", "answer")]
    texts = {one["id"]: one["text"] for one in events if one["type"] == "query"}
    assert [one["time"] for one in said if one["type"] == "thought"] == [float(k + 1) for k in range(seconds)]
    assert [(one["time"], texts[one["query"]]) for one in said if one["type"] == "answer"] == asked
    # At 1.0 s the first segment has been watched and thought about, at 1.5 s nothing more.
    order = [(one["type"], one["time"]) for one in said[:5]]
    assert order == [("answer", 0.0), ("thought", 1.0), ("answer", 1.0), ("answer", 1.5), ("thought", 2.0)]
    assert {"lag", "backlog", "tokens"} <= events[1 + [one["type"] for one in events].index("answer")].keys()
    assert events[-1]["type"] == "end" and events[-1]["segments"] == seconds


def test_watch_in_words(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    arguments = ("--ask", "1:now star ?", "--segment", 2, "--thought-tokens", 2, "--answer-tokens", 2)
    code, told, _, _ = invoke("watch", first.video.path, "--model", streaming, *arguments)
    assert code == 0
    assert told.splitlines()[0].startswith("    1.00 s  answer: now star ? -> ")
    assert told.splitlines()[1].startswith("    2.00 s  thought:")


def test_watch_of_itself_and_by_the_real_clock(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    arguments = ("watch", first.video.path, "--model", streaming, "--thought-tokens", 2, "--answer-tokens", 2)
    code, told, _, _ = invoke(
        *arguments, "--proactive", "tell-when star ?", "--threshold", 1, "--realtime", "--speed", 50, "--ask", "1:now ?"
    )
    assert code == 0
    seconds = int(first.segments()[-1].end)
    assert told.count("answer: tell-when star ? -> ") == seconds and told.count("answer: now ? -> ") == 1
    last = told.splitlines()[-1]
    assert (
        f"end: {seconds} segments, {seconds} thoughts, 2 queries, silent 0 times, at most " in last and "late" in last
    )


def test_watch_takes_questions_on_stdin_and_ends_though_it_stays_open(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    command = [sys.executable, "-m", "whilst.cli", "watch", first.video.path, "--model", str(streaming), "--stdin"]
    command += ["--json", "--realtime", "--speed", "2", "--thought-tokens", "2", "--answer-tokens", "2"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdin.write("now ?\n\nwhich in-1 ?\n")
        process.stdin.flush()
        events = [json.loads(line) for line in process.stdout]
        assert process.wait(60) == 0
    assert [one["text"] for one in events if one["type"] == "query"] == ["now ?", "which in-1 ?"]
    assert sorted(one["query"] for one in events if one["type"] == "answer") == ["q1", "q2"]
    assert events[-1]["type"] == "end"


def test_watch_with_a_policy_and_states(streaming: Path, world: Path) -> None:
    (first, *_) = read_samples(world / "data/test")
    arguments = ("watch", first.video.path, "--model", streaming, "--thought-tokens", 2, "--answer-tokens", 2)
    assert invoke(*arguments, "--states", "--proactive", "tell-when ?")[0] == 0
    assert "policy.name: 'none' is not one of" in fails(*arguments, "--policy", "{name: none}")
    code, _, told, _ = invoke(*arguments, "--policy", "{name")
    assert code == 2 and "not YAML" in told
    code, _, told, _ = invoke(*arguments, "--states", "--threshold", 0.5)
    assert code == 2 and "--states and --threshold" in told
    assert "threshold is a probability" in fails(*arguments, "--threshold", 2)
    code, _, told, _ = invoke(*arguments, "--speed", 2)
    assert code == 2 and "--speed needs --realtime" in told


def test_watch_of_a_folder_and_of_a_url(streaming: Path, world: Path, tmp_path: Path) -> None:
    from PIL import Image

    for k in range(4):
        Image.fromarray(np.full((32, 48, 3), 60 * k, np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "frames.json").write_text('{"fps": 2.0}')
    write_video(tmp_path / "a.mp4", np.full((4, 32, 48, 3), 9, np.uint8), 2.0)
    for source in (tmp_path, (tmp_path / "a.mp4").as_uri()):
        code, told, _, _ = invoke("watch", source, "--model", streaming, "--thought-tokens", 2)
        assert code == 0 and "end: 2 segments, 2 thoughts, 0 queries" in told
    assert "cannot be opened" in fails("watch", "rtsp://127.0.0.1:9/none", "--model", streaming)
    assert "leave the speed out" in fails(
        "watch", (tmp_path / "a.mp4").as_uri(), "--model", streaming, "--realtime", "--speed", 2
    )


def test_what_was_said_before_the_decoder_died_stays(
    streaming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", np.full((8, 32, 48, 3), 9, np.uint8), 2.0)

    def dies(*_: object) -> Iterator[tuple[float, np.ndarray]]:
        for k in range(5):
            yield k / 2, np.full((32, 48, 3), 9, np.uint8)
        raise VideoError("a.mp4: damaged at 2.5 s")

    monkeypatch.setattr("whilst.pace.stream_frames", dies)
    code, told, errors, _ = invoke("watch", tmp_path / "a.mp4", "--model", streaming, "--thought-tokens", 2)
    assert code == 2 and errors.strip().splitlines()[-1] == "error: a.mp4: damaged at 2.5 s"
    assert told.count("thought:") == 2 and told.splitlines()[-1].endswith("failed: a.mp4: damaged at 2.5 s")


def test_watch_says_what_is_missing(streaming: Path, base: Path, world: Path, tmp_path: Path) -> None:
    video = read_samples(world / "data/test")[0].video.path
    assert "there is no such file" in fails("watch", tmp_path / "none.mp4", "--model", streaming)
    assert "streaming.yaml is missing" in fails("watch", video, "--model", base)


@pytest.mark.parametrize("text", ["now star ?", "x:now ?", "-1:now ?", "1:", "inf:now ?"])
def test_a_query_without_a_time_is_refused(text: str) -> None:
    code, _, told, _ = invoke("watch", "a.mp4", "--model", "m", "--ask", text)
    assert code == 2 and "SECONDS:QUERY" in told
