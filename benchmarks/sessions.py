"""32 sessions at once on one model, in step, against one session after the other.

Claim: 32 sessions in step watch at least 3 times as many seconds of video a second, and say the same.

Baseline: the same streams one after the other, each alone on the model. Both read the same clips, encoded beforehand
and outside the time (encoding is the same work for both), write the same number of thoughts and answer the same queries
(a query at the end of every fourth segment). Every stream has its own video and samples its own thoughts, greedily.

Times are CPU seconds on one thread. What is gained is that one forward serves 32 streams: weights are read once, and
what each call costs in Python is paid once. Checked in the same run: every stream's texts are those it has alone.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

from benchmarks._measure import last_line, one_thread, paired_ratio, table, take_turns
from benchmarks._streams import FPS, checkpoint, clips, stream
from benchmarks.grpo_update import FAMILY, SIZES
from benchmarks.rollout import let_turns_end
from whilst.backbones.base import Backbone, load
from whilst.clips import View
from whilst.policies import Policy, make_policy
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.runtime import StreamBatch, encode_clips
from whilst.sample import Query

TARGET = 3.0
SESSIONS, SEGMENTS, THOUGHT, ANSWER = 32, 8, 8, 4
SETTINGS: dict[str, tuple[RenderConfig, Any]] = {
    "text memory": (RenderConfig(layout="recurrent", memory_tokens=64), None),
    "sink_window": (
        RenderConfig(layout="interleaved"),
        {"name": "sink_window", "sink": 8, "window": 32, "vision_seconds": 4.0},
    ),
}


def watched(backbone: Backbone, renderer: Renderer, policy: Policy | None, views: list[list[View]]) -> list[list[str]]:
    """The texts of streams in step: a thought a segment, an answer every fourth."""
    streams = StreamBatch(backbone, renderer, len(views), policy=policy)
    everyone, said = [True] * len(views), [list[str]() for _ in views]
    for i, of_step in enumerate(zip(*views, strict=True)):
        streams.watch(of_step)
        generated = [streams.think(everyone, THOUGHT)]
        if i % 4 == 3:
            query = Query(f"q{i}", float(i + 1), "word-1 word-2 word-3")
            generated.append(streams.ask([query] * len(views), ANSWER))
        for texts in generated:
            for of_stream, text in zip(said, texts, strict=True):
                of_stream.append(text.text if text is not None else "")
    return said


def one_by_one(
    backbone: Backbone, renderer: Renderer, policy: Policy | None, views: list[list[View]]
) -> list[list[str]]:
    return [watched(backbone, renderer, policy, [of_stream])[0] for of_stream in views]


def main(sessions: int = SESSIONS, segments: int = SEGMENTS, repeats: int = 3) -> str:
    """Compare and measure; the claim is about the setting that gains least."""
    one_thread()
    with checkpoint(FAMILY, **SIZES) as folder:
        backbone = load(folder)
    backbone.model.eval()
    let_turns_end(backbone)
    samples = [stream(f"s{i}", segments, thought=(1, 1), seed=i) for i in range(sessions)]
    views = [
        encode_clips(backbone, [(c.segment, c.images, c.times) for c in clips(sample, 32, 32, i)], FPS)
        for i, sample in enumerate(samples)
    ]
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    for name, (config, settings) in SETTINGS.items():
        renderer, policy = Renderer(backbone.tokenizer, backbone.spec, config), make_policy(settings)
        given = (backbone, renderer, policy, views)
        if watched(*given) != one_by_one(*given):
            raise AssertionError(f"{name}: streams in step do not say what they say alone")
        seconds = take_turns({"in step": partial(watched, *given), "one by one": partial(one_by_one, *given)}, repeats)
        video = float(sessions * segments)  # s
        results[name] = {
            "video_seconds_per_second": {way: video / median(times) for way, times in seconds.items()},
            "ratio": paired_ratio(seconds["one by one"], seconds["in step"]),
        }
        rows += [[name, way, median(times), video / median(times)] for way, times in seconds.items()]
    print(table(["memory", f"{sessions} sessions", "CPU s", "video s / s"], rows))
    ratio = min(result["ratio"] for result in results.values())
    details = {"unit": "CPU seconds", "sessions": sessions, "segments": segments, "settings": results}
    return last_line(
        f"{sessions} sessions in step over one after the other, video a second", ratio, TARGET, ratio >= TARGET, details
    )


if __name__ == "__main__":
    print(main())
