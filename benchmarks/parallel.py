"""Watching and thinking at the same time: two threads on two cores, against one thread.

Claim: at balanced load (reading a segment takes as long as writing its thought) `mode: parallel` is at least 1.5 times
as fast as `mode: interleaved`, with the same tokens. The most that is possible is 2 U / (U + 1) for U segments: the
first read and the last thought have nothing beside them.

Baselines: the same class in mode `interleaved` (the claim is against it), and the sequential StreamBatch, which batches
nothing here but is what evaluation runs. Balance is made, not assumed: the number of thought tokens is chosen from the
times that one interleaved run reports, and the balance of the measured runs is printed (read : write of the
interleaved baseline, 1 is even).

Wall time, since that is the claim, of streams whose frames are all at hand. It needs two idle cores: how many cores
other processes used meanwhile is printed, and the figure is worth nothing where that is more than a tenth. Every model
forward is on one intra-op thread; the two threads share one interpreter, whose lock kernels release. Checked in the
same run: all thoughts are the same, token for token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._measure import last_line, one_thread, paired_ratio, table
from benchmarks._streams import FPS, checkpoint, clips, stream
from whilst.backbones.base import Backbone, load
from whilst.backbones.tiny import Family
from whilst.clips import SegmentClip
from whilst.events import SegmentRead, StreamEvent, ThoughtDone
from whilst.parallel import Mode, ParallelStream
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.runtime import StreamBatch, encode_clips

TARGET = 1.5
FAMILY: Family = "qwen3_vl"
SIZES = dict(
    hidden=512,
    layers=4,
    heads=8,
    kv_heads=4,
    head_dim=64,
    intermediate=1536,
    vision_depth=2,
    vision_hidden=512,
    vision_heads=8,
    vision_intermediate=2048,
    patch=16,
    initializer_range=0.02,
)
CONFIG = RenderConfig(layout="split", rule="unit", scheme="tww")
SEGMENTS, SECONDS, PIXELS = 16, 4.0, 192
GUESS = 16  # thought tokens of the run that the balance is chosen from
LONGEST = 512


def watched(backbone: Backbone, of: list[SegmentClip], tokens: int, mode: Mode) -> tuple[list[tuple[int, ...]], float]:
    """Thoughts of a stream, and the share of its time that it read (0 to 1; of mode interleaved alone)."""
    events: list[StreamEvent] = []
    renderer = Renderer(backbone.tokenizer, backbone.spec, CONFIG)
    with ParallelStream(
        backbone, renderer, fps=FPS, thought_tokens=tokens, mode=mode, backlog=len(of), on_event=events.append
    ) as streaming:
        for clip in of:
            streaming.watch(clip.images, clip.times, clip.segment.end)
        streaming.finish()
    writing = sum(event.seconds for event in events if isinstance(event, ThoughtDone))
    last = max(event.clock for event in events if isinstance(event, SegmentRead | ThoughtDone))
    return [thought.ids for _, thought in streaming.thoughts], 1 - writing / last


def sequential(backbone: Backbone, of: list[SegmentClip], tokens: int) -> list[tuple[int, ...]]:
    """Thoughts of the sequential stream."""
    batch = StreamBatch(backbone, Renderer(backbone.tokenizer, backbone.spec, CONFIG), 1)
    said = []
    for clip in of:
        batch.watch(encode_clips(backbone, [(clip.segment, clip.images, clip.times)], FPS))
        (thought,) = batch.think([True], tokens)
        assert thought is not None
        said.append(thought.ids)
    return said


def balanced(backbone: Backbone, of: list[SegmentClip]) -> int:
    """Thought tokens at which writing takes as long as reading: a prefix costs about what a token does."""
    tokens = GUESS
    for _ in range(2):
        said, reading = watched(backbone, of, tokens, "interleaved")
        if min(len(ids) for ids in said) < tokens:
            raise RuntimeError("a thought ended before its limit, so the load cannot be set by it: take another seed")
        tokens = min(LONGEST, max(1, round((tokens + 2) * reading / (1 - reading)) - 2))
    return tokens


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used (Linux: /proc/stat, where the first line is the sum)."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def wall_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> tuple[dict[str, list[float]], float]:
    """Wall seconds of each run, `repeats` times in turns, every second turn backwards; and the mean number of cores
    that other processes used meanwhile."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    begun, own, all_of_it = time.perf_counter(), time.process_time(), busy_seconds()
    for turn in range(repeats):
        for name in list(runs) if turn % 2 == 0 else list(runs)[::-1]:
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
    others = busy_seconds() - all_of_it - (time.process_time() - own)
    return seconds, max(0.0, others / (time.perf_counter() - begun))


def main(
    sizes: Mapping[str, Any] = SIZES,
    segments: int = SEGMENTS,
    seconds: float = SECONDS,
    pixels: int = PIXELS,
    repeats: int = 5,
) -> str:
    """Balance, compare and measure. Frames are pixels x pixels at FPS, `seconds` s a segment."""
    one_thread()
    with checkpoint(FAMILY, **sizes) as folder:
        backbone = load(folder)
    backbone.model.eval()
    of = clips(stream("a", segments, thought=(1, 1), seconds=seconds), pixels, pixels)
    tokens = balanced(backbone, of)
    runs: dict[str, Callable[[], Any]] = {
        "parallel": partial(watched, backbone, of, tokens, "parallel"),
        "interleaved": partial(watched, backbone, of, tokens, "interleaved"),
        "StreamBatch": partial(sequential, backbone, of, tokens),
    }
    reading: list[float] = []

    def interleaved() -> None:
        reading.append(runs["interleaved"]()[1])

    thoughts = {"StreamBatch": runs["StreamBatch"]()} | {name: runs[name]()[0] for name in ("parallel", "interleaved")}
    for name, said in thoughts.items():
        assert said == thoughts["StreamBatch"], f"{name} thinks something else than StreamBatch"
    wall, others = wall_turns(runs | {"interleaved": interleaved}, repeats)
    share = median(reading)
    possible = 2 * segments / (segments + 1)
    grid = backbone.spec.merged(of[0].shape(backbone.spec))
    print(
        f"{FAMILY}, hidden {sizes['hidden']}, {sizes['layers']} layers; {segments} segments of {grid.tokens} visual "
        f"tokens, {tokens} tokens a thought; read : write = {share / (1 - share):.2f}; "
        f"other processes used {others:.2f} cores"
    )
    ratios = {name: paired_ratio(wall[name], wall["parallel"]) for name in wall}
    print(
        table(
            ["stream", "wall s", "s a segment", "times parallel", "of possible"],
            [
                [name, median(t), median(t) / segments, ratios[name], ratios[name] / possible]
                for name, t in wall.items()
            ],
        )
    )
    ratio = ratios["interleaved"]
    details = {
        "unit": "wall seconds",
        "family": FAMILY,
        "sizes": dict(sizes),
        "segments": segments,
        "visual_tokens": grid.tokens,
        "thought_tokens": tokens,
        "read_over_write": share / (1 - share),
        "possible": possible,
        "ratios": ratios,
        "seconds": wall,
        "cores_used_by_others": others,
        "cores": os.cpu_count(),
    }
    return last_line(
        "watching and thinking at once over in turns, times faster at balanced load",
        ratio,
        TARGET,
        ratio >= TARGET,
        details,
    )


if __name__ == "__main__":
    print(main())
