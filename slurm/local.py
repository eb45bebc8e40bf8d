"""Training on the GPUs of one machine, without Slurm: the plain command of torchrun or accelerate."""

from __future__ import annotations

import sys
from typing import Any

import yaml

from slurm.checks import TRAINING, LaunchError, check
from slurm.render import folder_of
from whilst.files import write_whole
from whilst.recipe import save_resolved


def command(recipe: Any, launcher: str) -> list[str]:
    """The command that trains `recipe` here. Writes the resolved recipe, and accelerate's settings, beside the run.

    LaunchError: a stage or a number of nodes that has no such command.
    """
    launch, folder = recipe.launch, folder_of(recipe)
    if recipe.stage not in TRAINING:
        raise LaunchError(f"--local starts the ranks of a training; run this one with `whilst {recipe.stage}`")
    if launch.nodes + launch.server_nodes > 1:
        raise LaunchError("--local is this machine alone: launch.nodes: 1 and launch.server_nodes: 0")
    check(recipe)
    saved = folder / "recipe.yaml"
    save_resolved(recipe, saved)
    stage = ["-m", "whilst.cli", recipe.stage, str(saved)]
    if launcher == "torchrun":
        return [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(launch.ranks)),
            *stage,
        ]
    if not launch.gpus_per_node and launch.ranks > 1:
        raise LaunchError("--local accelerate: it starts several ranks on GPUs only; on CPU use --local torchrun")
    settings = folder / "accelerate.yaml"
    write_whole(settings, yaml.safe_dump(accelerate_settings(recipe), sort_keys=False))
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(settings), *stage]


def accelerate_settings(recipe: Any) -> dict[str, Any]:
    """What accelerate has to know to start the ranks. Precision, DeepSpeed and FSDP are the recipe's, not its."""
    launch = recipe.launch
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if launch.ranks > 1 else "NO",
        "use_cpu": not launch.gpus_per_node,
        "num_machines": 1,
        "machine_rank": 0,
        "num_processes": launch.ranks,
        "mixed_precision": "no",
        "rdzv_backend": "static",
        "same_network": True,
        "main_training_function": "main",
    }
