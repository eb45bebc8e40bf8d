"""Requests of lmms-eval: what they ask for, and streams that are shared exactly. Nothing here needs lmms-eval."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.benchmarks.reading import asked_once, stream
from evaluation.lmms_plugin.asks import Ask, PluginError, Span, positive, prompt_of, settings_of, span_of
from evaluation.lmms_plugin.streams import Reply, Settings, answer, plan
from evaluation.predict import predict
from whilst.checkpoint import Checkpoint
from whilst.clips import segment_clips
from whilst.sample import Query, Sample
from whilst.video import VideoError

FPS = 2.0

NewCheckpoint = Callable[..., Checkpoint]


def folder_video(folder: Path, seconds: float, seed: int = 0, size: tuple[int, int] = (32, 48)) -> str:
    """Noise as a folder of images: every pixel is read back, and no frame's bytes depend on another's."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(round(seconds * FPS)):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i:04d}.png")
    (folder / "frames.json").write_text(json.dumps({"fps": FPS}))
    return str(folder)


# ---- What a request asks for.


@pytest.mark.parametrize(
    ("visuals", "span"),
    [
        (["a.mp4"], Span("a.mp4")),
        ([["a.mp4"]], Span("a.mp4")),
        ("a.mp4", Span("a.mp4")),
        (["file:///v/a.mp4"], Span("/v/a.mp4")),
        ([{"type": "video", "path": "a.mp4", "video_start": 1, "video_end": 4.5}], Span("a.mp4", 1.0, 4.5)),
        ([{"url": "a.mp4"}], Span("a.mp4")),
        ([{"video": "a.mp4", "video_end": 3}], Span("a.mp4", 0.0, 3.0)),
    ],
)
def test_a_request_names_a_span_of_one_video(visuals: Any, span: Span) -> None:
    assert span_of(visuals) == span


@pytest.mark.parametrize(
    ("visuals", "said"),
    [
        ([], "holds 0 pieces"),
        (None, "holds 0 pieces"),
        (["a.mp4", "b.mp4"], "holds 2 pieces"),
        (["a.PNG"], "not an image or sound"),
        ([Image.new("RGB", (4, 4))], "holds 'Image'"),
        ([{"array": [0.0], "sampling_rate": 16000}], "none of path, url, video"),
        ([{"type": "audio", "url": "a.wav"}], "holds 'audio'"),
        (["https://x.org/a.mp4"], "only local videos"),
    ],
)
def test_what_is_not_one_video_is_refused(visuals: Any, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        span_of(visuals)


def test_generation_settings_are_respected_or_refused() -> None:
    assert settings_of({}, 64) == (64, ())
    greedy = {"temperature": 0.0, "do_sample": False, "num_beams": 1, "top_p": 1.0, "image_aspect_ratio": "original"}
    assert settings_of({"max_new_tokens": 5, "until": ["\n\n", "."], **greedy}, 64) == (5, ("\n\n", "."))
    assert settings_of({"until": "x"}, 1) == (1, ("x",))
    wrong = {"temperature": 0.7, "do_sample": True, "num_beams": 4, "repetition_penalty": 1.2, "max_new_tokens": 0}
    for name, value in (wrong | {"until": [""], "visual_cot": True}).items():
        with pytest.raises(PluginError, match=name):
            settings_of({name: value}, 64)


def test_an_answer_ends_before_the_first_stop_text() -> None:
    ask = Ask(Span("a"), "who ?", 8, until=("Q:", "\n"))
    assert [ask.cut(text) for text in ("A\nB Q: C", "A Q: C\n", "A", "\nA")] == ["A", "A ", "A", ""]


def test_chat_messages_are_one_user_turn() -> None:
    video = {"path": "a.mp4", "video_end": 3.0}
    content = [{"type": "video", "url": video}, {"type": "text", "text": "who ?"}]
    assert prompt_of([{"role": "user", "content": content}]) == ([video], "who ?")
    timed = {"type": "video", "url": "a.mp4", "start_time": 1.0, "end_time": 3.0}
    visuals, text = prompt_of([{"role": "user", "content": [timed]}, {"role": "user", "content": "who ?"}])
    assert (span_of(visuals), text) == (Span("a.mp4", 1.0, 3.0), "who ?")
    for role in ("system", "assistant"):
        with pytest.raises(PluginError, match=role):
            prompt_of([{"role": role, "content": "you are"}])
    with pytest.raises(PluginError, match="image"):
        prompt_of([{"role": "user", "content": [{"type": "image", "url": "a.png"}]}])


def test_model_arguments_must_be_positive_numbers() -> None:
    assert (positive("fps", 2.5), positive("batch_size", 4, whole=True)) == (2.5, 4)
    for value, whole in ((0, False), (-1.0, False), (float("inf"), False), ("2", False), (True, True), (1.5, True)):
        with pytest.raises(PluginError, match="model_args.x"):
            positive("x", value, whole=whole)


# ---- Which requests share a stream.


def asks_at(*ends: float, path: str = "a", text: str = "which in-1 ?") -> list[Ask]:
    return [Ask(Span(path, 0.0, end), text, 4) for end in ends]


def planned(*ends: float, seconds: float = 2.0, shared: bool = True) -> list[list[float]]:
    streams = plan(asks_at(*ends), ends, seconds, shared=shared)
    indices = [i for s in streams for _, of_moment in s.asks for i in of_moment]
    assert sorted(indices) == list(range(len(ends)))  # each request is put once
    return [[end for end, of_moment in s.asks for _ in of_moment] for s in streams]


def test_requests_share_a_stream_where_each_sees_what_it_would_see_alone() -> None:
    assert planned(6, 2, 4, 2) == [[2, 2, 4, 6]]  # on the cuts, in any order
    assert planned(2, 3, 4) == [[2, 4], [3]]  # 3 s ends inside a segment of the others
    assert planned(2, 4, 5) == [[2, 4, 5]]  # nobody comes after 5 s
    assert planned(2, 4, 4.5) == [[2, 4.5], [4]]  # the last segment of 4.5 s is [2, 4.5): half a second is none
    assert planned(4, 4, shared=False) == [[4], [4]]


def test_videos_and_starts_have_streams_of_their_own() -> None:
    asks = [*asks_at(4), *asks_at(4, path="b"), Ask(Span("a", 2.0, 4.0), "?", 4), *asks_at(2)]
    streams = plan(asks, [4, 4, 4, 2], 2.0, shared=True)
    assert [(s.path, s.start, s.asks) for s in streams] == [
        ("a", 0.0, ((2, (3,)), (4, (0,)))),
        ("b", 0.0, ((4, (1,)),)),
        ("a", 2.0, ((4, (2,)),)),
    ]


LAYOUTS: tuple[dict[str, Any], ...] = (
    {"layout": "recurrent"},
    {"layout": "recurrent", "thinks": False},
    {"layout": "interleaved"},
    {"layout": "split", "rule": "unit"},
)


def alone(checkpoint: Checkpoint, ask: Ask, seconds: float) -> str:
    """The reply of our own evaluation to a sample with this one query."""
    assert ask.span.end is not None
    one = asked_once(Query("q", ask.span.end, ask.text), "now", {})
    [sample] = stream("test", "s", ask.span.path, [one], segment_seconds=seconds)
    assert isinstance(sample, Sample)
    clips = [segment_clips(sample, FPS)]
    [episode] = predict(checkpoint, [sample], clips, thought_tokens=4, answer_tokens=ask.limit)
    return episode.replies[0].text


@pytest.mark.parametrize("contract", LAYOUTS, ids=lambda c: "-".join(map(str, c.values())))
def test_replies_are_those_of_our_own_evaluation(
    new_checkpoint: NewCheckpoint, tmp_path: Path, contract: Mapping[str, Any]
) -> None:
    """Shared or not, in a batch or not, at any moment, in the order in which they were asked."""
    checkpoint = new_checkpoint(**contract)
    videos = [folder_video(tmp_path / "a", 7), folder_video(tmp_path / "b", 4, 1, (48, 32))]
    asks = [Ask(Span(videos[v], 0.0, end), text, limit) for v, end, text, limit in (
        (0, 6.0, "which in-1 ?", 5), (1, 4.0, "which out-1 ?", 5), (0, 2.0, "which in-1 ?", 3),
        (0, 3.0, "which in-1 ?", 5), (0, 6.0, "which in-2 ?", 5), (0, 4.5, "which in-1 ?", 5),
    )]  # fmt: skip
    expected = [alone(checkpoint, ask, 2.0) for ask in asks]
    assert len(set(expected)) > 3
    for size in (1, 3):
        replies, work = answer(checkpoint, asks, Settings(FPS, 2.0, 4, size))
        assert [reply.text for reply in replies] == expected
        assert (work.streams, work.segments) == (4, 3 + 2 + 2 + 2)
        assert all(bool(reply.thought) == checkpoint.contract.thinks for reply in replies)
        assert work.answers == sum(reply.answer for reply in replies)


def test_kept_queries_are_not_shared(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    checkpoint = new_checkpoint(layout="interleaved", queries="kept")
    asks = asks_at(2.0, 4.0, 4.0, path=folder_video(tmp_path / "a", 4))
    settings = Settings(FPS, 2.0, 4)
    together, work = answer(checkpoint, asks, settings)
    assert work.streams == 3
    assert together == [answer(checkpoint, [ask], settings)[0][0] for ask in asks]


def test_what_comes_after_the_span_changes_nothing(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    checkpoint = new_checkpoint()
    one, other = folder_video(tmp_path / "a", 6), folder_video(tmp_path / "b", 6, seed=1)
    for i in range(round(3 * FPS)):  # the first 3 s are the same
        (Path(other) / f"{i:04d}.png").write_bytes((Path(one) / f"{i:04d}.png").read_bytes())
    before, after = (
        answer(checkpoint, asks_at(2.0, 3.0, 6.0, path=path), Settings(FPS, 2.0, 4))[0] for path in (one, other)
    )
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def test_tokens_are_those_that_arrived(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    checkpoint = new_checkpoint()
    renderer = checkpoint.renderer
    video = folder_video(tmp_path / "a", 4)
    (short, long), _ = answer(checkpoint, asks_at(2.0, 4.0, path=video), Settings(FPS, 2.0, 4))
    asked = len(renderer.received(None, None, Query("q", 0.0, "which in-1 ?")))
    assert len(renderer.system()) + asked < short.received < long.received
    assert long.received - short.received == short.received - len(renderer.system()) - asked  # equal segments
    assert long.thought > short.thought > 0 and 0 < short.answer <= 4


def test_without_an_end_all_of_the_video_is_watched(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    checkpoint, video = new_checkpoint(), folder_video(tmp_path / "a", 5)
    asks = [Ask(Span(video), "which in-1 ?", 4), *asks_at(5.0, path=video)]
    (whole, given), work = answer(checkpoint, asks, Settings(FPS, 2.0, 4))
    assert whole == given and work.streams == 1


def test_a_video_that_cannot_be_read_ends_the_run(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    video = folder_video(tmp_path / "a", 4)
    for asks, said in ((asks_at(2.0, path="gone.mp4"), "gone.mp4"), (asks_at(9.0, path=video), "no span")):
        with pytest.raises(VideoError, match=said):
            answer(new_checkpoint(), asks, Settings(FPS, 2.0, 4))


def test_failures_are_counted_and_harm_no_other_request(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    """A file that is missing, a span that is too long, and a frame that is damaged in mid-stream."""
    checkpoint = new_checkpoint()
    good, bad = folder_video(tmp_path / "a", 6), folder_video(tmp_path / "b", 6, seed=1)
    settings = Settings(FPS, 2.0, 4, batch_size=2, failures="count")
    asks = [*asks_at(2.0, 6.0, path=bad), *asks_at(2.0, path="gone.mp4"), *asks_at(4.0, 99.0, path=good)]
    sound, _ = answer(checkpoint, [asks[0], asks[3]], settings)
    (Path(bad) / "0009.png").write_bytes(b"no image")
    replies, _ = answer(checkpoint, asks, settings)
    assert [replies[0], replies[3]] == sound
    for i, said in ((1, "0009.png"), (2, "gone.mp4"), (4, "no span")):
        assert replies[i] == Reply("", failure=replies[i].failure) and said in replies[i].failure


def test_a_segment_without_a_frame_is_an_error(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    video = folder_video(tmp_path / "a", 6)
    with pytest.raises(VideoError, match=r"no frame in \[1\.0, 2\.0\) s"):
        answer(new_checkpoint(), asks_at(6.0, path=video), Settings(0.5, 1.0, 4))


def test_a_scheme_that_must_know_the_end_is_refused(new_checkpoint: NewCheckpoint, tmp_path: Path) -> None:
    checkpoint = new_checkpoint(layout="split", rule="unit", scheme="batch")
    with pytest.raises(PluginError, match="scheme 'batch'"):
        answer(checkpoint, asks_at(2.0, path=folder_video(tmp_path / "a", 2)), Settings(FPS, 2.0, 4))
