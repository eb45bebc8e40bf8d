"""Causality, layer by layer: what happens after a time leaves everything before it bitwise as it was.

(The renderer, the model and the runtime: tests/whilst/test_render.py and test_equivalence.py; segmenters and decoding:
tests/whilst/test_segmenters.py and test_video.py.)
"""

import random
from pathlib import Path

import numpy as np

from data_pipeline.world.config import WorldConfig
from data_pipeline.world.draw import draw
from data_pipeline.world.graph import graph_of
from data_pipeline.world.simulate import World, simulate
from evaluation.predict import predict
from whilst.backbones.base import Backbone
from whilst.checkpoint import Checkpoint, Contract
from whilst.clips import segment_clips
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video
from whilst.video import read_frames, write_video


def worlds(seed: int, config: WorldConfig) -> tuple[World, World]:
    """Two worlds that are the same but for their last scene."""
    first = simulate(config, random.Random(seed))
    for other in range(1000, 2000):
        second = simulate(config, random.Random(other))
        if second.scenes[-1] != first.scenes[-1]:
            return first, World((*first.scenes[:-1], second.scenes[-1]))
    raise AssertionError("every world ends alike")


def test_world_tells_the_past_without_the_future() -> None:
    config = WorldConfig(segments=(5, 5))
    changed = 0
    for seed in range(20):
        a, b = worlds(seed, config)
        assert (draw(a, config)[:8] == draw(b, config)[:8]).all()
        known_a, known_b = graph_of(a, "x"), graph_of(b, "x")
        assert known_a.as_of(4.0) == known_b.as_of(4.0)
        changed += known_a != known_b
    assert changed > 5


def test_decoding_does_not_look_ahead(tmp_path: Path) -> None:
    """A file whose later frames differ decodes to the same earlier frames (lossless codec, so bits can be compared)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 48, 48, 3), dtype=np.uint8)
    edited = images.copy()
    edited[8:] = 255 - edited[8:]
    for name, frames in (("a", images), ("b", edited)):
        write_video(tmp_path / f"{name}.mkv", frames, 2, codec="ffv1")
    a, b = (read_frames(tmp_path / f"{name}.mkv", 2.0) for name in "ab")
    assert (a.images[:8] == b.images[:8]).all()
    assert (a.images[8:] != b.images[8:]).any()


def test_evaluation_does_not_look_ahead(backbone: Backbone, tmp_path: Path) -> None:
    """Other frames, thoughts and queries after second 2 leave thoughts and replies up to second 2 as they were."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    edited = images.copy()
    edited[4:] = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    def sample(name: str, last: str) -> Sample:
        events: list[Segment | Thought | Query | Answer] = []
        for k in range(4):
            events += [Segment(float(k), k + 1.0), Thought(k + 1.0, "in-1 red-circle ." if k < 2 else last)]
            events += [Query(f"q{k}", k + 1.0, "which in-1 ?" if k < 2 else last)]
            events += [Answer(k + 1.0, "red-circle" if k < 2 else last, f"q{k}")]
        return Sample("s", Video(str(tmp_path / name)), tuple(events))

    write_video(tmp_path / "a.mkv", images, 2, codec="ffv1")
    write_video(tmp_path / "b.mkv", edited, 2, codec="ffv1")
    for config in (
        RenderConfig(layout="recurrent_packed", rule="text_memory"),
        RenderConfig(layout="interleaved", rule="last_segments", rule_params={"n": 1}),
        RenderConfig(layout="split", rule="unit", scheme="group_decoupled"),
    ):
        renderer = Renderer(backbone.tokenizer, backbone.spec, config)
        checkpoint = Checkpoint(backbone, renderer, Contract("", 2.0, True, config))
        a, b = (
            predict(checkpoint, [s], [segment_clips(s, 2.0)], thought_tokens=4, answer_tokens=4)[0]
            for s in (sample("a.mkv", "none ."), sample("b.mkv", "now"))
        )
        assert a.thoughts[:2] == b.thoughts[:2]
        assert a.replies[:2] == b.replies[:2]
        assert (a.thoughts[2:], a.replies[2:]) != (b.thoughts[2:], b.replies[2:])
