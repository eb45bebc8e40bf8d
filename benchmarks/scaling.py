"""Two training processes against one: the same update of the same global batch, on two cores.

Claim: with two processes (DDP, gloo) an update takes at most 1 / 1.5 of the time that one process needs. The most that
is possible is 2: what is missing are the gradients that go between the processes, the optimiser's step, which each
process takes whole, and ranks that wait for the one with more tokens.

Baseline: the first of the two processes alone, with all rows, whilst the other sleeps. Same model, rows, micro-batches
(one row each, so nothing is padded), loss over the global weight, clipping and AdamW, one thread a process. The two
ways take turns in the same processes. The claim is about rows of equal lengths; in the second setting one rank has more
tokens than the other, as happens in training, and `possible` says what that alone leaves of 2.

Wall time, since that is the claim; it needs two idle cores. How many cores other processes used meanwhile is printed,
and the figure is worth nothing where that is more than a tenth. Gloo over the loopback stands in for what a cluster
has: nothing is said about GPUs, NCCL or several nodes. Checked in the same run: both ways make the same gradients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks._measure import last_line, one_thread, paired_ratio, table
from benchmarks._streams import clips, stream
from benchmarks.parallel import busy_seconds
from train.collate import Collator
from train.rows import Item
from whilst.backbones.base import Backbone, load
from whilst.backbones.tiny import Family, build_tiny
from whilst.clips import shapes
from whilst.render import Renderer
from whilst.render_config import RenderConfig

TARGET = 1.5
TOLERANCE = 1e-4  # of the gradient's norm
FAMILY: Family = "qwen3_vl"
RANKS = 2
SIZES = dict(
    hidden=256, layers=6, heads=8, kv_heads=4, head_dim=32, intermediate=768, vision_hidden=128, vision_depth=2
)
CONFIG = RenderConfig(layout="recurrent_packed", rule="text_memory")
PIXELS = 64
SETTINGS = {"equal rows": (5,) * 8, "unequal rows": (2, 8, 4, 6, 3, 7, 5, 5)}  # segments a row


@dataclass(frozen=True)
class Job:
    """What the processes are told: a checkpoint's folder, settings, and how often to measure."""

    folder: str
    settings: dict[str, Sequence[int]]
    repeats: int


class Loss(nn.Module):
    """Negative log-probs of a micro-batch, weighted, over the weight of the global batch."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = backbone.model

    def forward(self, batch: dict[str, Any], total: float) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "loss_weight")}
        labels, weights = batch["labels"][:, 1:], batch["loss_weight"][:, 1:]
        learned = weights > 0
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][learned]
        nll = nn.functional.cross_entropy(self.model.get_output_embeddings()(hidden), labels[learned], reduction="none")
        return (nll * weights[learned]).sum() / total


def batches_of(backbone: Backbone, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """A micro-batch for each row."""
    renderer = Renderer(backbone.tokenizer, backbone.spec, CONFIG)
    collator = Collator(backbone.spec, renderer.rule, backbone.backend, backbone.tokenizer.pad_token_id)
    batches = []
    for i, segments in enumerate(lengths):
        sample = stream(f"video-{i}", segments, thought=(8, 8), seed=i)
        shown = clips(sample, PIXELS, PIXELS, seed=i)
        (row,) = renderer.rows(sample, shapes(shown, backbone.spec))
        batches.append(collator([[Item(row, tuple(shown[clip] for clip in row.clips))]]))
    return batches


class Update:
    """One update, by this process alone or with the others."""

    def __init__(self, backbone: Backbone, batches: Sequence[dict[str, Any]], rank: int) -> None:
        self.loss, self.batches, self.rank = Loss(backbone), batches, rank
        self.spread = DistributedDataParallel(self.loss, find_unused_parameters=False)
        self.optimizer = torch.optim.AdamW(self.loss.parameters(), lr=0.0)  # all updates start from the same weights
        self.total = float(sum(batch["loss_weight"][:, 1:].sum() for batch in batches))

    def alone(self) -> None:
        if self.rank == 0:
            for batch in self.batches:
                self.loss(batch, self.total).backward()
            self._step()

    def together(self) -> None:
        own = self.batches[self.rank :: RANKS]
        for i, batch in enumerate(own):
            self.spread.require_backward_grad_sync = i + 1 == len(own)
            (self.spread(batch, self.total) * RANKS).backward()  # DDP takes the mean over ranks
        self._step()

    def _step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.loss.parameters(), 1.0)
        self.optimizer.step()

    def gradient(self) -> torch.Tensor:
        made = [one.grad.flatten() for one in self.loss.parameters() if one.grad is not None]
        return torch.cat(made) if made else torch.zeros(0)  # a process that slept has none


def timed(update: Update, way: str) -> float:
    """Wall seconds of an update, from a moment at which all processes are ready."""
    update.optimizer.zero_grad()
    distributed.barrier()
    begun = time.perf_counter()
    getattr(update, way)()
    seconds = time.perf_counter() - begun
    distributed.barrier()
    return seconds


def measure(update: Update, repeats: int) -> dict[str, Any]:
    """Compare and time one setting, in all processes; rank 0's figures count."""
    gradients = {}
    for way in ("alone", "together"):  # also warms up
        timed(update, way)
        gradients[way] = update.gradient()
    apart = 0.0
    if update.rank == 0:
        difference = gradients["together"] - gradients["alone"]
        apart = float(difference.norm() / gradients["alone"].norm())
        assert apart <= TOLERANCE, f"two processes make another gradient: {apart:.2g} of its norm apart"
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    begun, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    for turn in range(repeats):
        for way in ("alone", "together") if turn % 2 == 0 else ("together", "alone"):
            seconds[way].append(timed(update, way))
    used = torch.tensor([time.process_time() - own], dtype=torch.float64)
    distributed.all_reduce(used)
    others = (busy_seconds() - busy - float(used)) / (time.perf_counter() - begun)
    return {"seconds": seconds, "gradients_apart": apart, "cores_used_by_others": others}


def work(job: Job) -> None:
    """What each process does; rank 0 writes its figures to the job's folder."""
    one_thread()
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    found = {}
    for name, lengths in job.settings.items():
        backbone = load(job.folder)
        backbone.model.train()
        batches = batches_of(backbone, lengths)
        figures = measure(Update(backbone, batches, rank), job.repeats)
        tokens = [batch["input_ids"].shape[1] for batch in batches]
        of_ranks = [sum(tokens[r::RANKS]) for r in range(RANKS)]
        found[name] = {"rows": len(tokens), "tokens": [min(tokens), max(tokens)], "tokens_a_rank": of_ranks, **figures}
    if rank == 0:
        Path(job.folder, "found.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def main(
    sizes: dict[str, Any] | None = None, settings: dict[str, Sequence[int]] | None = None, repeats: int = 5
) -> str:
    """Start both processes, compare and measure; the claim is about the first setting."""
    sizes, settings = sizes or SIZES, settings or dict(SETTINGS)
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # on a free port
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(FAMILY, folder, [f"word-{i}" for i in range(100)], timestamp_seconds=256, **sizes)
        job = json.dumps({"folder": folder, "settings": settings, "repeats": repeats})
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        shared |= {"WORLD_SIZE": str(RANKS), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        processes = []
        for rank in range(RANKS):
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen([sys.executable, __file__, job], env=environment))
        try:
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()
        if any(codes):
            raise RuntimeError(f"the processes ended with {codes}")
        found = json.loads(Path(folder, "found.json").read_text())
    rows = []
    for name, figures in found.items():
        seconds, (first, second) = figures["seconds"], figures["tokens_a_rank"]
        figures["ratio"] = paired_ratio(seconds["alone"], seconds["together"])
        figures["possible"] = (first + second) / max(first, second)  # by tokens alone
        ways = [median(seconds["alone"]), median(seconds["together"]), figures["ratio"], figures["possible"]]
        rows.append([name, figures["rows"], figures["tokens"], *ways, figures["cores_used_by_others"]])
    print(table(["setting", "rows", "tokens", "1 process s", "2 processes s", "speed-up", "possible", "others"], rows))
    ratio = found[next(iter(settings))]["ratio"]
    details = {"unit": "wall seconds", "family": FAMILY, "sizes": sizes, "cores": os.cpu_count(), "settings": found}
    return last_line("two training processes over one, times faster", ratio, TARGET, ratio >= TARGET, details)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(Job(**json.loads(sys.argv[1])))
    else:
        print(main())
