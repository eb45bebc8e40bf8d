"""A small timeline, its frames, and tiny checkpoints under any contract."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from whilst.backbones.base import Backbone
from whilst.checkpoint import CONTRACT, Checkpoint, Contract
from whilst.clips import SegmentClip
from whilst.recipe import save_resolved
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought, Video, validate, write_jsonl
from whilst.video import write_video


def make_sample(name: str = "a", segments: int = 4) -> Sample:
    """Segments of a second with a thought each; a backward query half-way, a standing one with a window at the end."""
    start = 10.0  # the clip lies inside a longer file
    end = start + segments
    half = segments // 2
    events: list[Event] = []
    for k in range(segments):
        now = start + k + 1
        events += [Segment(now - 1, now), Thought(now, f"in-{k + 1} red-circle ." if k % 2 == 0 else "none .")]
        if k == 0:
            events += [
                Query("f0", now, "tell-when out red-circle ?", "forward", window=(end, end)),
                Silence(now, "f0"),
            ]
        elif k + 1 < segments:
            events.append(Silence(now, "f0"))
        if k + 1 == half:
            evidence = ((start, start + 1),)
            events += [
                Query("b0", now, "which in-1 ?", "backward", evidence=evidence, knowable_at=start + 1),
                Answer(now, "red-circle", "b0"),
            ]
    events.append(Answer(end, "now", "f0"))
    sample = Sample(
        name,
        Video(f"videos/{name}.mp4", start, end),
        tuple(events),
        meta={"asks": {"b0": {"subkind": "which_in"}}},
    )
    validate(sample)
    return sample


def make_clips(sample: Sample, seed: int = 0) -> list[SegmentClip]:
    """Two frames of 32 x 32 pixels a segment: noise, another for each seed."""
    rng = np.random.default_rng(seed)
    return [
        SegmentClip(s, rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8), (s.start, s.start + 0.5), 2.0)
        for s in sample.segments()
    ]


@pytest.fixture
def sample() -> Sample:
    return make_sample()


@pytest.fixture
def new_sample() -> Callable[..., Sample]:
    return make_sample


@pytest.fixture
def new_clips() -> Callable[..., list[SegmentClip]]:
    return make_clips


@pytest.fixture
def new_checkpoint(backbone: Backbone) -> Callable[..., Checkpoint]:
    """new_checkpoint(thinks=True, layout="recurrent", rule=..., ...) -> the family's tiny one under that contract."""

    def make(thinks: bool = True, **changes: object) -> Checkpoint:
        config = replace(RenderConfig(layout="recurrent"), **changes)  # type: ignore[arg-type]
        renderer = Renderer(backbone.tokenizer, backbone.spec, config)
        return Checkpoint(backbone, renderer, Contract("tiny", 2.0, thinks, config))

    return make


# ---- On disk


@pytest.fixture
def new_arm(tmp_path: Path, checkpoints: Mapping[str, Path]) -> Callable[..., str]:
    """new_arm(name, render, thinks=True, seed=0, log=()) -> a tiny checkpoint under that contract, weights stirred."""

    def make(name: str, render: RenderConfig, thinks: bool = True, seed: int = 0, log: Any = ()) -> str:
        out = tmp_path / name
        shutil.copytree(checkpoints["qwen3_vl"], out)
        rng = np.random.default_rng(seed)
        weights = load_file(out / "model.safetensors")
        stirred = {k: (w + 0.05 * rng.standard_normal(w.shape)).astype(w.dtype) for k, w in weights.items()}
        save_file(stirred, out / "model.safetensors", {"format": "pt"})
        save_resolved(Contract(str(out), 2.0, thinks, render), out / CONTRACT)
        (out / "trainer_state.json").write_text(json.dumps({"log_history": list(log)}))
        return str(out)

    return make


@pytest.fixture
def sample_file(tmp_path: Path, new_sample: Callable[..., Sample]) -> str:
    """Three samples of three segments, whose videos are noise of 14 s at 2 frames a second."""
    made = []
    for seed, name in enumerate("abc"):
        sample, video = new_sample(name, 3), str(tmp_path / f"{name}.mp4")
        write_video(video, np.random.default_rng(seed).integers(0, 256, (28, 32, 32, 3)).astype(np.uint8), 2.0)
        made.append(replace(sample, video=replace(sample.video, path=video, end=None)))
    write_jsonl(made, tmp_path / "samples.jsonl")
    return str(tmp_path / "samples.jsonl")
