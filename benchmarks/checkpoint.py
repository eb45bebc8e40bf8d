"""A whole checkpoint of a training, against one `torch.save` of the same weights and optimiser.

Claim: writing it takes less than twice as long, although what it writes is complete, hashed, sealed by a manifest
and renamed at once; it is read, every file verified, in less than 3 times (in the details); it is as large to 2%.

Baseline: `torch.save` of {"model", "optimizer"} to one file, and `torch.load`. Both have all bytes reach the disk
(fsync) before they count as written. Both are read from the page cache. The baseline says nothing of data order, random
states or damage; that is what the factor buys, and sha256 is most of it.

Seconds by the wall clock: waiting for the disk is part of it. The state is float32 weights and two moments of AdamW.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks._measure import last_line, one_thread, paired_ratio, table
from train.checkpoint_files import last_checkpoint, read_manifest
from train.checkpoints import load_strictly
from train.sft import DataSettings, SFTRecipe, StreamingSFTTrainer, build_trainer
from train.stage import ModelSettings, OptimSettings
from whilst.backbones.tiny import build_tiny
from whilst.files import sync
from whilst.sample import Answer, Query, Sample, Segment, Video, write_jsonl
from whilst.video import write_video

TARGET = 2.0
REPEATS = 7


def trained(folder: Path, hidden: int, layers: int) -> StreamingSFTTrainer:
    """A trainer after one update, so that its optimiser has a state."""
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    write_video(folder / "0.mp4", frames, 2.0)
    events = (Segment(0.0, 1.0), Query("q", 1.0, "which ?"), Answer(1.0, "in-1", "q"))
    write_jsonl([Sample("s", Video("0.mp4"), events)], folder / "train.jsonl")
    model = build_tiny(
        "qwen3_vl",
        folder / "model",
        hidden=hidden,
        layers=layers,
        heads=hidden // 64,
        kv_heads=2,
        intermediate=4 * hidden,
    )
    recipe = SFTRecipe(
        name="benchmark",
        stage="sft",
        output=str(folder / "run"),
        model=ModelSettings(str(model)),
        data=DataSettings(str(folder / "train.jsonl"), thoughts="drop"),
        optim=OptimSettings(steps=1, learning_rate=1e-4, schedule="constant"),
    )
    trainer = build_trainer(recipe)
    trainer.keep = None
    trainer.train()
    return trainer


def save_whole(trainer: StreamingSFTTrainer) -> None:
    trainer._save_checkpoint(trainer.model, None)


def load_whole(trainer: StreamingSFTTrainer) -> None:
    found = last_checkpoint(trainer.output)
    assert found is not None and load_strictly(trainer, str(found))
    trainer._load_optimizer_and_scheduler(str(found))


def save_plain(trainer: StreamingSFTTrainer, file: Path) -> None:
    assert trainer.model is not None and trainer.optimizer is not None
    torch.save({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}, file)
    sync(file)
    sync(file.parent)


def load_plain(trainer: StreamingSFTTrainer, file: Path) -> None:
    assert trainer.model is not None and trainer.optimizer is not None
    state = torch.load(file, map_location="cpu", weights_only=True)
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def measure(trainer: StreamingSFTTrainer, file: Path, repeats: int) -> dict[str, list[float]]:
    """Wall-clock seconds of each, in turns; the first turn is thrown away. What was written is removed untimed, and the
    disk is idle when a turn begins."""
    saved = trainer.output / "checkpoint-1"

    def fresh(run: Callable[[], object], made: Path) -> float:
        shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
        os.sync()
        return timed(run)

    seconds: dict[str, list[float]] = {name: [] for name in ("save", "plain_save", "load", "plain_load")}
    for turn in range(repeats + 1):
        runs = {
            "save": lambda: fresh(lambda: save_whole(trainer), saved),
            "plain_save": lambda: fresh(lambda: save_plain(trainer, file), file),
            "load": lambda: timed(lambda: load_whole(trainer)),
            "plain_load": lambda: timed(lambda: load_plain(trainer, file)),
        }
        order = (
            ("save", "plain_save", "load", "plain_load") if turn % 2 else ("plain_save", "save", "plain_load", "load")
        )
        for name in order:
            taken = runs[name]()
            if turn:
                seconds[name].append(taken)
    return seconds


def main(hidden: int = 512, layers: int = 12, repeats: int = REPEATS) -> str:
    one_thread()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trained(Path(folder), hidden, layers)
        file = Path(folder, "plain.pt")
        seconds = measure(trainer, file, repeats)
        bytes_whole, bytes_plain = read_manifest(trainer.output / "checkpoint-1").bytes, file.stat().st_size
    ratios = {
        "save": paired_ratio(seconds["save"], seconds["plain_save"]),
        "load": paired_ratio(seconds["load"], seconds["plain_load"]),
        "size": bytes_whole / bytes_plain,
    }
    medians = {name: median(values) for name, values in seconds.items()}
    print(f"{bytes_plain / 1e6:.0f} MB of weights and moments; seconds by the wall clock, median of {repeats}:")
    rows: list[list[Any]] = [
        ["save", medians["save"], medians["plain_save"], ratios["save"]],
        ["load", medians["load"], medians["plain_load"], ratios["load"]],
        ["MB", bytes_whole / 1e6, bytes_plain / 1e6, ratios["size"]],
    ]
    print(table(["", "whole checkpoint", "torch.save", "ratio"], rows))
    ratio, holds = ratios["save"], ratios["save"] <= TARGET and ratios["load"] <= 3.0 and ratios["size"] <= 1.02
    details = {"unit": "seconds by the wall clock", "repeats": repeats, "ratios": ratios, "median": medians}
    return last_line("whole checkpoints against torch.save, seconds to write", ratio, TARGET, holds, details)


if __name__ == "__main__":
    print(main())
