"""Three hours of a stream at 2 frames a second under every bounded memory policy.

Claim: for each of them the time a segment takes, the entries of the caches and their bytes do not grow: the last
quarter of the stream has at most 1.05 times what the first quarter has.

Baseline: the first quarter of the same stream. Machines drift over minutes, so the time of each segment is divided by
that of a constant piece of work which is done beside it (a fresh stream that reads the same clip, three times); figures
without that division are printed too. All policies watch the same video, a square that wanders over noise, segment by
segment in turns; a segment's features are encoded once for all of them, outside the time. Each stream writes a thought
of four tokens a segment, but for recent_frames, which keeps nothing but frames. A query is asked every 50 segments, on
a branch, outside the time. `unbounded` is run for the first eighth alone, to show what is being avoided.

Times are CPU seconds of this process; a quarter's figure is the median over its segments.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from benchmarks._measure import last_line, one_thread, table
from benchmarks._streams import FPS, checkpoint
from whilst.backbones.base import load
from whilst.clips import View
from whilst.policies import make_policy
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.runtime import StreamBatch, encode_clips
from whilst.sample import Query, Segment
from whilst.sampling import forced

TARGET = 1.05
HOURS, SECONDS = 3.0, 16.0  # of the stream; of a segment
SIDE = 32  # pixels
THOUGHT = 3  # tokens, and the boundary token
POLICIES: Mapping[str, Any] = {
    "text memory, FIFO": None,
    "visual_window": [
        {"name": "visual_window", "budget": 256, "whole_turns": True},
        {"name": "sink_window", "sink": 16, "window": 64, "reindex": False},
    ],
    "sink_window": {"name": "sink_window", "sink": 16, "window": 64, "vision_seconds": 64.0},
    "drop_similar": [
        {"name": "drop_similar", "threshold": 0.5},
        {"name": "sink_window", "sink": 16, "window": 64, "vision_seconds": 64.0},
    ],
    "recent_frames": {"name": "recent_frames", "frames": 96},
    "retrieval": [{"name": "retrieval", "window": 256, "segments": 4}, {"name": "sink_window", "window": 64}],
    "key_norm": [
        {"name": "key_norm", "tokens": 16},
        {"name": "sink_window", "window": 64, "vision_seconds": 128.0, "reindex": False},
    ],
    # 16 frames: they end up in 16 segments, each with the marks of its turn, and that takes its time
    "surprise": [{"name": "surprise", "budget": 64}, {"name": "sink_window", "window": 64, "reindex": False}],
    "curvature": [
        {"name": "curvature", "clear": 0.5, "blurred": 0.0, "budget": 256},
        {"name": "sink_window", "window": 64, "reindex": False},
    ],
    "carrier": [{"name": "carrier", "frames": 32}, {"name": "sink_window", "window": 64, "reindex": False}],
}


def clip(segment: int, rng: np.random.Generator) -> tuple[Segment, np.ndarray, tuple[float, ...]]:
    """A segment of the video: a bright square on a slow walk over faint noise."""
    start = segment * SECONDS
    times = tuple(start + i / FPS for i in range(round(SECONDS * FPS)))
    images = rng.integers(0, 40, (len(times), SIDE, SIDE, 3), dtype=np.uint8)
    for image, t in zip(images, times, strict=True):
        x, y = (int((SIDE - 8) * (0.5 + 0.5 * np.sin(t / period))) for period in (31.0, 47.0))
        image[y : y + 8, x : x + 8] = (200, int(t) % 250, 90)
    return Segment(start, start + SECONDS), images, times


class Stream:
    """One policy's stream, and what it cost by segment."""

    def __init__(self, renderer: Renderer, backbone: Any, name: str) -> None:
        self.thinks = name != "recent_frames"
        self.batch = StreamBatch(backbone, renderer, 1, policy=make_policy(POLICIES.get(name)))
        self.words = renderer.encode("word-1 word-2 word-3")
        self.seconds: list[float] = []
        self.entries: list[int] = []
        self.bytes: list[int] = []

    def step(self, view: View) -> None:
        self.batch.sampler = forced([self.words], self.batch.renderer.boundary)
        started = time.process_time()
        self.batch.watch([view])
        if self.thinks:
            self.batch.think([True], THOUGHT + 1)
        self.seconds.append(time.process_time() - started)
        self.entries.append(sum(self.batch.cache.lengths()))
        self.bytes.append(self.batch.cache.bytes())

    def ask(self, segment: int) -> None:
        self.batch.sampler = forced([self.words], self.batch.renderer.boundary)
        self.batch.ask([Query(f"q{segment}", segment * SECONDS, "word-4 word-5")], 4)


def quarters(values: list[float] | list[int]) -> tuple[float, float]:
    """Medians of the first and of the last quarter."""
    n = len(values) // 4
    return median(values[:n]), median(values[-n:])


def beside(seconds: list[float], steady: list[float]) -> float:
    """Last quarter over first, each segment's time counted in units of the constant work that was done beside it."""
    first, last = quarters([mine / theirs for mine, theirs in zip(seconds, steady, strict=True)])
    return last / first


def main(hours: float = HOURS) -> str:
    """Watch `hours` of video under every policy."""
    one_thread()
    with checkpoint("qwen2_5_vl", hidden=64, layers=2) as folder:
        backbone = load(folder)
    backbone.model.eval()
    plain = Renderer(backbone.tokenizer, backbone.spec, RenderConfig(layout="interleaved"))
    text = Renderer(backbone.tokenizer, backbone.spec, RenderConfig(layout="recurrent", memory_tokens=64))
    streams = {name: Stream(text if POLICIES[name] is None else plain, backbone, name) for name in POLICIES}
    unbounded = Stream(plain, backbone, "unbounded")
    segments = int(hours * 3600 / SECONDS)
    rng, steady = np.random.default_rng(0), []
    for segment in range(segments):
        view = encode_clips(backbone, [clip(segment, rng)], FPS)[0]
        started = time.process_time()
        for _ in range(3):
            StreamBatch(backbone, plain, 1).watch([view])
        steady.append(time.process_time() - started)
        for stream in streams.values():
            stream.step(view)
            if segment % 50 == 49:
                stream.ask(segment)
        if segment < max(8, segments // 8):
            unbounded.step(view)
    drift = quarters(steady)[1] / quarters(steady)[0]
    rows: list[list[Any]] = []
    results: dict[str, Any] = {}
    for name, stream in streams.items():
        (early, late), (few, many), (small, large) = (
            quarters(stream.seconds),
            quarters(stream.entries),
            quarters(stream.bytes),
        )
        results[name] = {
            "milliseconds": [1000 * early, 1000 * late],
            "time_ratio": beside(stream.seconds, steady),
            "time_ratio_without_drift": late / early,
            "entries": [few, many],
            "most_entries": max(stream.entries),
            "bytes_ratio": large / small,
        }
        ratio = results[name]["time_ratio"]
        rows.append([name, 1000 * early, 1000 * late, late / early, ratio, few, many, large / small])
        stream.batch.close()
    early, late = quarters(unbounded.seconds)
    few, many = quarters(unbounded.entries)
    rows.append(["unbounded, first eighth", 1000 * early, 1000 * late, late / early, "", few, many, ""])
    print(f"{segments} segments of {SECONDS:g} s; constant work: last quarter / first quarter {drift:.3f}")
    head = ["policy", "ms first", "ms last", "ratio", "steadied", "entries first", "entries last", "bytes ratio"]
    print(table(head, rows))
    ratio = max(max(r["time_ratio"], r["bytes_ratio"]) for r in results.values())
    details = {
        "unit": "CPU seconds",
        "hours": hours,
        "fps": FPS,
        "segments": segments,
        "drift": drift,
        "policies": results,
    }
    return last_line(
        "3 h of stream, last quarter over first quarter, worst of time and bytes over the bounded policies",
        ratio,
        TARGET,
        ratio <= TARGET,
        details,
    )


if __name__ == "__main__":
    print(main())
