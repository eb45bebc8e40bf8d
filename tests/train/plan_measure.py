"""Two real steps of SFT or GRPO in processes of their own, watched by torch's profiler: estimates and what was used.

Every allocation and release of the CPU's allocator is an event with its size, temporaries inside kernels included, so
their running sum at its highest is the exact peak. Weights are loaded before; they are not part of it. The second step
is the one that counts: AdamW's moments are there. Each run is a fork, which imports nothing again: what another run
frees would be subtracted.

    python -m tests.train.plan_measure FOLDER '[["sft", "qwen3_vl", {"checkpointing": true}]]'
"""

import json
import multiprocessing
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Trainer

from tests.train.plan_runs import batch_of, grpo_recipe_of, recipe_of, sizes_of_trainer
from train import grpo
from train.grpo_recipe import GRPORecipe
from train.memory import Sharding, held, step_bytes
from train.plan import plan
from train.sft import build_trainer


def measure(folder: Path, stage: str, family: str, settings: dict) -> dict[str, float]:
    """Bytes: the estimate, what was measured, and of the weights, which neither holds."""
    torch.set_num_threads(1)
    folder.mkdir()
    if stage == "grpo":
        return _measure_grpo(grpo_recipe_of(folder, family, **settings))
    recipe = recipe_of(folder, family, steps=2, **settings)
    trainer = build_trainer(recipe)
    peak = _peak(trainer)
    sizes, batch = sizes_of_trainer(trainer, recipe), batch_of(trainer)
    kept = held(sizes.parts, "float32", Sharding("ddp", 0, 1))
    step = step_bytes(
        sizes,
        batch,
        backend=recipe.model.attention,
        precision="float32",
        checkpointing=recipe.optim.gradient_checkpointing,
        accumulation=recipe.optim.accumulation,
    )
    return {"measured": peak, "estimate": step.peak + kept.optimiser, "weights": kept.weights}


def _measure_grpo(recipe: GRPORecipe) -> dict[str, float]:
    """The reference of the KL term is loaded before, as the weights are."""
    trainer = grpo.build_trainer(recipe)
    memory = plan(recipe).memory
    weights = memory.held.weights
    return {
        "measured": _peak(trainer),
        "estimate": memory.total - weights - memory.other.get("reference", 0.0),
        "weights": weights,
    }


def _peak(trainer: Trainer) -> float:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.train()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


if __name__ == "__main__":
    runs = [(Path(sys.argv[1], str(i)), *run) for i, run in enumerate(json.loads(sys.argv[2]))]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as processes:
        print(json.dumps(processes.starmap(measure, runs, chunksize=1)))
