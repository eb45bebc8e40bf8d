"""A training set that need not fit into memory: the same rows, the same training, and no silent change under a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from train import prepare, sft
from train.prepare import Rows, measure, rejected
from train.rows import DataError, Item, load_items
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings
from whilst.backbones.base import load
from whilst.render import RenderConfig, Renderer
from whilst.sample import Answer, Query, Sample, Segment, Thought, Video, read_samples, write_jsonl
from whilst.video import write_video

CONFIG = RenderConfig(layout="recurrent", rule="causal")  # several rows a sample


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Six samples of two or three seconds, each with a video of its own; the fourth one's cannot be read."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(6):
        seconds = 2 + i % 2
        write_video(tmp_path / f"{i}.mp4", rng.integers(0, 255, (2 * seconds, 32, 32, 3), dtype=np.uint8), 2)
        events: list[Any] = []
        for k in range(seconds):
            events += [Segment(float(k), k + 1.0), Thought(k + 1.0, f"in-{k % 2 + 1} red-circle .")]
        events += [Query("q", float(seconds), "which in-1 ?"), Answer(float(seconds), "red-circle", "q")]
        made.append(Sample(f"s{i}", Video(f"{i}.mp4"), tuple(events)))
    (tmp_path / "3.mp4").write_bytes(b"no video")
    write_jsonl(made, tmp_path / "train.jsonl")
    return tmp_path / "train.jsonl"


@pytest.fixture
def renderer(checkpoint: Path) -> Renderer:
    backbone = load(checkpoint)
    return Renderer(backbone.tokenizer, backbone.spec, CONFIG)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each sample was decoded."""
    counts: Counter[str] = Counter()
    whole = prepare.render_items

    def counted(sample: Sample, renderer: Renderer, fps: float) -> list[Item]:
        counts[sample.id] += 1
        return whole(sample, renderer, fps)

    monkeypatch.setattr(prepare, "render_items", counted)
    return counts


def rows_of(samples: Path, renderer: Renderer, keep_megabytes: float) -> Rows:
    return Rows(read_samples(samples), renderer, 2.0, "keep", keep_megabytes)


def same(ours: Sequence[Item], theirs: Sequence[Item]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.row.sample_id == b.row.sample_id and np.array_equal(a.row.input_ids, b.row.input_ids)
        assert np.array_equal(a.row.labels, b.row.labels)
        assert all(np.array_equal(x.images, y.images) for x, y in zip(a.clips, b.clips, strict=True))


def test_rows_are_the_same_whatever_is_kept(samples: Path, renderer: Renderer, decoded: Counter[str]) -> None:
    items, left_out = load_items(samples, renderer, 2.0)
    whole, none = rows_of(samples, renderer, 100.0), rows_of(samples, renderer, 0.0)
    for rows in (whole, none):
        decoded.clear()
        found = measure(rows)
        assert rejected(rows, found) == left_out and [one.sample for one in left_out] == ["s3"]
        assert rows.lengths == [len(item.row) for item in items]
        same([rows[i] for i in range(len(rows))], items)
        assert len(items) == 5 * 2 + 5 + 2, "a row a turn: thoughts and the query, s3 left out"
    assert none.used == 0 and decoded["s1"] == 1 + 4, "nothing is kept: once to measure, once for each of four rows"
    assert whole.used > 0


def test_what_was_used_last_is_kept(samples: Path, renderer: Renderer, decoded: Counter[str]) -> None:
    all_of_them = rows_of(samples, renderer, 100.0)
    measure(all_of_them)
    rows = rows_of(samples, renderer, all_of_them.used / 1e6 / 2)  # room for two of five, whatever their lengths
    measure(rows)
    rows[0], rows[3]
    decoded.clear()
    for row in (0, 3, 0, 3, 0):
        assert rows[row].row.sample_id == ("s0" if row == 0 else "s1")
    assert not decoded
    for row in range(len(rows)):
        assert len(rows[row].row) == rows.lengths[row] and 0 < rows.used <= rows.most
    assert decoded == {"s2": 1, "s4": 1, "s5": 1}, "s0 and s1 come first and were there"
    assert rows[0].row.sample_id == "s0" and decoded["s0"] == 1, "it had been let go"


def test_a_prepared_set_is_not_measured_again(
    samples: Path, renderer: Renderer, decoded: Counter[str], tmp_path: Path
) -> None:
    keep = tmp_path / "prepared.json"
    first = measure(rows_of(samples, renderer, 0.0), keep, lambda row: [len(row), 1], ["tokens", "rows"])
    assert first[0].counts == (sum(first[0].lengths), len(first[0].lengths))
    decoded.clear()
    rows = rows_of(samples, renderer, 0.0)
    assert measure(rows, keep, counted=["tokens", "rows"]) == first and not decoded
    other = measure(rows_of(samples, renderer, 0.0), keep, lambda row: [2], ["twos"])  # not counts of something else
    assert [one.counts for one in other if one.lengths] == [(2 * len(one.lengths),) for one in first if one.lengths]
    measure(rows_of(samples, renderer, 0.0), keep, lambda row: [len(row), 1], ["tokens", "rows"])
    (tmp_path / "0.mp4").write_bytes(b"gone bad")  # under the run: the rows are known, and cannot be made again
    with pytest.raises(DataError, match="sample s0: it was fine when this run was prepared, and now it is not"):
        rows[0]
    again = measure(rows_of(samples, renderer, 0.0), keep)  # another start sees that the file is another
    assert [one.reason != "" for one in again] == [True, False, False, True, False, False]
    changed = replace(CONFIG, thought_weight=0.5)
    renderer.config = changed
    decoded.clear()
    measure(rows_of(samples, renderer, 0.0), keep)
    assert decoded, "another rendering is measured anew"


def test_a_video_that_changes_under_a_run_stops_it(samples: Path, renderer: Renderer, tmp_path: Path) -> None:
    rows = rows_of(samples, renderer, 0.0)
    measure(rows)
    frames = np.zeros((4, 64, 96, 3), np.uint8)
    write_video(tmp_path / "0.mp4", frames, 2)  # larger frames: more tokens
    with pytest.raises(DataError, match="sample s0: its rows have changed"):
        rows[0]


def test_memory_and_workers_change_nothing(samples: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Training that keeps nothing, with two processes that decode ahead, is bitwise that which keeps all."""
    recipe = SFTRecipe(
        name="test",
        stage="sft",
        output=str(tmp_path / "whole"),
        model=ModelSettings(str(checkpoint)),
        data=DataSettings(str(samples), max_rejected=1),
        optim=OptimSettings(steps=4, batch_size=3, learning_rate=1e-3),
        render=CONFIG,
        log_steps=1,
    )
    lean = replace(recipe, output=str(tmp_path / "lean"), data=replace(recipe.data, keep_megabytes=0.0, workers=2))
    ours, theirs = (load_file(sft.run(one) / "model.safetensors") for one in (lean, recipe))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    reasons = [json.loads(line) for line in Path(lean.output, "rejected.jsonl").read_text().splitlines()]
    assert [one["sample"] for one in reasons] == ["s3"]
    assert Path(lean.output, "prepared.json").is_file()
