"""A training set that need not fit into memory: the same rows, the same training, and no silent change under a run."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from slurm.ports import free_ports
from tests.train.zygote import Fault, zygote
from train import prepare, sft, shares
from train.prepare import Rows, measure, rejected
from train.rows import DataError, Item, Limits, load_items
from train.sft import DataSettings, SFTRecipe
from train.stage import ModelSettings, OptimSettings
from train.stopping import PREEMPTED, Interrupted, catching
from whilst.backbones.base import load
from whilst.render import Renderer
from whilst.render_config import RenderConfig
from whilst.runs import Run, read_run, write_run
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

    def counted(sample: Sample, renderer: Renderer, fps: float, limits: Limits) -> list[Item]:
        counts[sample.id] += 1
        return whole(sample, renderer, fps, limits)

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
    decoded.clear()
    limited = Rows(read_samples(samples), renderer, 2.0, "keep", 0.0, Limits(frames=1))
    measure(limited, keep)
    assert decoded, "so are fewer frames"


def test_a_video_that_changes_under_a_run_stops_it(samples: Path, renderer: Renderer, tmp_path: Path) -> None:
    rows = rows_of(samples, renderer, 0.0)
    measure(rows)
    frames = np.zeros((4, 64, 96, 3), np.uint8)
    write_video(tmp_path / "0.mp4", frames, 2)  # larger frames: more tokens
    with pytest.raises(DataError, match="sample s0: its rows have changed"):
        rows[0]


def folder_of_images(folder: Path, seconds: int) -> None:
    folder.mkdir()
    for i in range(2 * seconds):
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "frames.json").write_text('{"fps": 2.0}')


def test_an_image_that_changes_is_measured_anew(
    samples: Path, renderer: Renderer, decoded: Counter[str], tmp_path: Path
) -> None:
    (tmp_path / "0.mp4").unlink()
    folder_of_images(tmp_path / "0.mp4", 2)  # a folder, whatever it is called
    (tmp_path / "0.mp4" / "gone.txt").symlink_to("nowhere")
    keep, image = tmp_path / "prepared.json", tmp_path / "0.mp4" / "2.png"

    def decodes() -> bool:
        decoded.clear()
        measure(rows_of(samples, renderer, 0.0), keep)
        return bool(decoded)

    assert decodes() and not decodes()
    stamp = image.stat()
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert decodes() and not decodes()
    image.write_bytes(image.read_bytes() + b"x")
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert decodes() and not decodes(), "its size alone"
    image.rename(image.with_name("4.png"))
    assert decodes() and not decodes(), "its name alone"


def test_measuring_goes_on_where_it_was_stopped(
    samples: Path, renderer: Renderer, decoded: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop in its second sample, killed in the fourth; longest first."""
    whole = measure(rows_of(samples, renderer, 0.0))
    keep, found, at = tmp_path / "run" / "prepared.json", prepare._found, list[int]()

    def disturbed(rows: Rows, sample: int, count: Any) -> prepare.Found:
        at.append(sample)
        if len(at) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        if len(at) == 4:
            raise KeyboardInterrupt  # the nearest to a kill that a process can tell of
        return found(rows, sample, count)

    monkeypatch.setattr(prepare, "_found", disturbed)
    with catching(), pytest.raises(Interrupted):
        measure(rows_of(samples, renderer, 0.0), keep)
    with pytest.raises(KeyboardInterrupt):
        measure(rows_of(samples, renderer, 0.0), keep)
    assert at == [1, 3, 5, 0] and not keep.exists()
    assert measure(rows_of(samples, renderer, 0.0), keep) == whole
    assert at[4:] == [0, 2, 4], "what was measured is known"
    assert list(keep.parent.iterdir()) == [keep]

    measure(rows_of(samples, renderer, 0.0), keep, lambda row: [1], ["ones"])
    assert len(at) == 7 + 6, "parts and results of another key are not taken"
    keep.write_text("{")
    with pytest.raises(DataError, match="it was damaged .* remove it"):
        measure(rows_of(samples, renderer, 0.0), keep)


def test_a_part_grows_on_the_disk_while_its_rank_works(
    samples: Path, renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a kill costs what was measured since the last time, and no more."""
    part, found, there = tmp_path / ".prepared" / "0.json", prepare._found, list[int]()

    def look(rows: Rows, sample: int, count: Any) -> prepare.Found:
        there.append(len(json.loads(part.read_text())["samples"]) if part.exists() else 0)
        return found(rows, sample, count)

    monkeypatch.setattr(prepare, "_found", look)
    monkeypatch.setattr(prepare, "SAVE", 0.0)
    measure(rows_of(samples, renderer, 0.0), tmp_path / "prepared.json")
    assert there == [0, 1, 2, 3, 4, 5]


def test_it_says_how_far_it_is_and_that_the_run_is_not_lost(
    samples: Path, renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_run(tmp_path, Run("n", "sft", "running", 0, 4, ranks=1, attempt=2, started=1.0, updated=1.0, version="v"))
    monkeypatch.setattr(shares, "TELL", 3600.0)
    measure(rows_of(samples, renderer, 0.0), tmp_path / "prepared.json")
    assert capsys.readouterr().out == "", "short work is done in silence"
    monkeypatch.setattr(shares, "TELL", 0.0)
    measure(rows_of(samples, renderer, 0.0), tmp_path / "other.json")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("samples measured: ")]
    assert [line.split(";")[0] for line in told] == [f"samples measured: {n} of 6" for n in range(6)]
    assert re.search(r"; about \d+ \w+ to go", told[-1]) and "to go" not in told[0]
    run = read_run(tmp_path)
    assert run is not None and run.updated > 1e9 and (run.attempt, run.state) == (2, "running")


def test_too_many_rejections_are_all_listed(samples: Path, renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 samples cannot be used, .* is 0; .*rejected_validation.jsonl lists all"):
        sft.prepare_data(DataSettings("x"), str(samples), renderer, tmp_path / "prepared_validation.json")
    (line,) = (tmp_path / "rejected_validation.jsonl").read_text().splitlines()
    assert json.loads(line)["sample"] == "s3" and json.loads(line)["reason"]


def test_ranks_share_stop_together_and_learn_of_errors(
    samples: Path, checkpoints: Mapping[str, Path], tmp_path: Path
) -> None:
    """Real ranks, whose store is in rank 0. Whichever opens s1, one of the longest, is asked to stop in it; both end.
    In the other run it fails in a way that nobody foresaw; both end, too, and the other one says why."""
    out = tmp_path / "run"
    videos = out / "videos"  # inside the run's folder, where the zygote listens
    recipe = SFTRecipe(
        name="test",
        stage="sft",
        output=str(out),
        model=ModelSettings(str(checkpoints["qwen3_vl"])),
        data=DataSettings(str(samples), max_rejected=1),
        optim=OptimSettings(steps=1),
        render=CONFIG,
    )
    videos.mkdir(parents=True)
    folder_of_images(videos / "s1", 3)
    listed = read_samples(samples)
    write_jsonl([replace(s, video=Video("run/videos/s1")) if s.id == "s1" else s for s in listed], samples)

    def env() -> dict[str, str]:
        return {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(free_ports(os.getpid() % 10000)[0])}

    with zygote(tmp_path / "zygote") as forks:
        asked = [Fault(rank, signal.SIGUSR1, path="s1/0.png") for rank in (0, 1)]
        stopped = forks.start(recipe, ranks=2, faults=asked, env=env()).wait()
        assert [one.code for one in stopped] == [PREEMPTED, PREEMPTED], stopped[0].output[-3000:]
        assert sum("USR1: stopping" in one.output for one in stopped) == 1, "one was asked"
        assert "stopped while its samples were measured; run it again" in stopped[0].output
        run = read_run(out)
        assert run is not None and (run.state, run.step) == ("preempted", 0)
        kept = [json.loads(file.read_text())["samples"] for file in (out / ".prepared").iterdir()]
        numbers = [number for part in kept for number in part]
        assert "1" in numbers and len(numbers) == len(set(numbers)), "what it was asked in is done; each by one rank"

        done = forks.start(recipe, ranks=2, env=env()).wait()
        assert [one.code for one in done] == [0, 0], done[0].output[-3000:]
        measured = json.loads((out / "prepared.json").read_text())["samples"]
        assert all(measured[number] == one for part in kept for number, one in part.items())
        assert sorted(measured) == list("012345") and not (out / ".prepared").exists()

        (out / "prepared.json").unlink()
        fails = [Fault(rank, 0, path="s1/0.png") for rank in (0, 1)]
        failed = forks.start(recipe, ranks=2, faults=fails, env=env()).wait()
    assert [one.code for one in failed] == [1, 1]
    (other,) = [one.output for one in failed if "DataError" in one.output]
    (own,) = [one.output for one in failed if "DataError" not in one.output]
    assert "ArithmeticError" in own and "failed: ArithmeticError: nobody foresaw this" in other


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
