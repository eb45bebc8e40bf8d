"""The plan's arithmetic against measurement: memory of real steps (CPU, float32), and torch's count of operations."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tests.train.plan_runs import WIDE, batch_of, recipe_of, sizes_of_trainer
from train.flops import step_flops
from train.memory import Sharding, held
from train.sft import build_trainer
from train.sizes import Parts

ROOT = Path(__file__).parents[2]
RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("sft", "qwen3_vl", WIDE),
    ("sft", "qwen3_vl", WIDE | {"checkpointing": True}),
    ("sft", "qwen2_5_vl", WIDE),
    ("sft", "qwen2_5_vl", WIDE | {"checkpointing": True}),
    ("sft", "qwen2_5_vl", WIDE | {"checkpointing": True, "lora": True}),
    ("grpo", "qwen3_vl", {}),
    ("grpo", "qwen2_5_vl", {"checkpointing": True}),
    ("grpo", "qwen2_5_vl", {"beta": 0.04, "updates": 2}),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What tests/train/plan_measure.py says of each run."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.train.plan_measure", str(tmp_path_factory.mktemp("plan")), json.dumps(RUNS)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    told: list[dict[str, float]] = json.loads(found.stdout.splitlines()[-1])
    return told


@pytest.mark.slow
@pytest.mark.parametrize("run", range(len(RUNS)), ids=["-".join(of[:2]) for of in RUNS])
def test_memory_is_what_a_real_step_takes(run: int, measured: list[dict[str, float]]) -> None:
    """Everything above the weights: gradients, AdamW, activations, batches. Measured as plan_measure.py says."""
    told = measured[run]
    assert told["measured"] > 2 * told["weights"]  # there is something to measure
    assert told["estimate"] == pytest.approx(told["measured"], rel=0.15)


def cpu_kernels() -> dict[Any, Any]:
    """What FlopCounterMode does not know: attention's CPU kernel, and products that add in place (the fused head)."""

    def forward(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def backward(grad: Any, q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_backward_flop_count(grad, q, k, v)

    def added(acc: Any, a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(2 * a[0] * a[1] * b[1])

    ops = torch.ops.aten
    return {
        ops._scaled_dot_product_flash_attention_for_cpu: forward,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: backward,
        ops.addmm_: added,
    }


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"checkpointing": True}, {"checkpointing": True, "freeze": "tower"}, {"lora": True}],
    ids=["full", "checkpointing", "merger", "lora"],
)
def test_operations_are_those_that_torch_counts(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, family, steps=1, seconds=4, side=64, layers=3, vision_depth=2, **settings)
    trainer = build_trainer(recipe)
    with FlopCounterMode(display=False, custom_mapping=cpu_kernels()) as counter:
        trainer.train()
    estimate = step_flops(
        sizes_of_trainer(trainer, recipe),
        batch_of(trainer),
        backend="whilst_sdpa",
        checkpointing=recipe.optim.gradient_checkpointing,
    )
    assert estimate.total == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_weights_gradients_and_moments_in_worked_numbers() -> None:
    """1000 parameters of which 600 are trained, on 4 ranks."""
    parts = Parts(800, 100, 0, 60, 40, 600, 0, 0, 0, 0)
    ddp = held(parts, "autocast", Sharding("ddp", 0, 4))
    assert (ddp.weights, ddp.gradients, ddp.optimiser, ddp.buckets) == (4000, 2400, 4800, 2400)
    assert held(parts, "float32", Sharding("ddp", 0, 1)).buckets == 0
    zero2 = held(parts, "mixed", Sharding("zero2", 2, 4))
    assert (zero2.weights, zero2.gradients, zero2.optimiser) == (2000, 600, 1800)
    zero3 = held(parts, "mixed", Sharding("zero3", 3, 4))
    assert (zero3.weights, zero3.gradients, zero3.optimiser, zero3.host) == (500, 600, 1800, 0)
    offload = held(parts, "mixed", Sharding("zero3_offload", 3, 4, True, True))
    assert (offload.weights, offload.optimiser, offload.host) == (0, 0, 2300)
    assert held(parts, "fsdp", Sharding("fsdp2", 3, 4)).weights == 1000
