"""What a recipe may ask a cluster for: everything that does not go together is named before anything is written."""

from __future__ import annotations

import re
import sys
from typing import Any

from whilst.hardware import Launch

TRAINING = ("sft", "grpo")
ARRAYS = ("synth", "eval")
MOST_TASKS = 1000  # numbers of tasks are below MaxArraySize, which is 1001 unless the cluster says otherwise
HEREDOC = "WHILST"  # ends the part of a script that is for the nodes
# Options that follow from the recipe's other keys.
OURS = frozenset(("job-name", "output", "error", "chdir", "open-mode", "nodes", "ntasks", "ntasks-per-node", "array"))
OURS |= {"cpus-per-task", "gpus-per-node", "mem", "time", "partition", "account", "qos", "signal", "requeue"}
OURS |= {"no-requeue", "dependency", "kill-on-invalid-dep"}
# Options that would hide GPUs of a node from its ranks, or start another number of ranks.
OURS |= {"gpus", "gpus-per-task", "gpus-per-socket", "gpu-bind", "ntasks-per-gpu", "ntasks-per-socket", "cpus-per-gpu"}


class LaunchError(ValueError):
    """A recipe that cannot be launched as it asks for; names the key and the fix."""


def check(recipe: Any) -> None:
    """LaunchError where a recipe's `launch` asks for what its stage cannot use."""
    launch: Launch = recipe.launch
    if recipe.stage not in (*TRAINING, *ARRAYS) and launch.nodes > 1:
        raise LaunchError(f"launch.nodes {launch.nodes}: {recipe.stage} is one process on one node; nodes: 1")
    if recipe.stage in ARRAYS and launch.nodes > 1:
        raise LaunchError(
            f"launch.nodes {launch.nodes}: {recipe.stage} is spread over the tasks of arrays, each on one node; "
            f"nodes: 1, and launch.tasks: {launch.nodes}"
        )
    if recipe.stage not in ARRAYS and launch.tasks > 1:
        raise LaunchError(f"launch.tasks {launch.tasks}: only synth and eval run as arrays; leave it out")
    if launch.tasks > MOST_TASKS:
        raise LaunchError(
            f"launch.tasks {launch.tasks}: an array of Slurm has at most {MOST_TASKS} unless set up for more, and "
            f"a task does as many pieces as it gets; tasks: {MOST_TASKS}"
        )
    _check_server(recipe)
    if recipe.stage in TRAINING and 0 < launch.gpus_per_node < launch.ranks // launch.nodes:
        raise LaunchError(
            f"launch.ranks_per_node {launch.ranks_per_node}: more than launch.gpus_per_node {launch.gpus_per_node}; a "
            f"rank has a GPU of its own"
        )
    if recipe.stage in TRAINING and seconds_of(launch.time) <= launch.signal_seconds:
        raise LaunchError(
            f"launch.time {launch.time} is not longer than launch.signal_seconds {launch.signal_seconds}: training "
            f"would be told to stop as it starts; give it more time"
        )
    if HEREDOC in launch.setup.split("\n"):
        raise LaunchError(f"launch.setup: a line is {HEREDOC!r}, which ends the part for the nodes; write it otherwise")
    for name in launch.sbatch:
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise LaunchError(f"launch.sbatch: {name!r} is no long option of sbatch, such as constraint")
        if name in OURS:
            raise LaunchError(f"launch.sbatch.{name}: follows from other keys of launch; leave it out")
    _check_gres(recipe)
    if recipe.stage == "synth" and recipe.executor != "local":
        raise LaunchError(
            "executor: this recipe has datatrove run it: start it with `whilst synth`, or give executor: local"
        )
    if recipe.stage == "eval" and gpus_of(recipe) > launch.gpus_per_node:
        raise LaunchError(
            f"devices: {', '.join(recipe.devices)} are more than launch.gpus_per_node {launch.gpus_per_node}"
        )


def _check_gres(recipe: Any) -> None:
    """`gres` stands in the place of gpus-per-node, where a cluster wants it so, or for a type of GPU."""
    asked = str(recipe.launch.sbatch.get("gres", ""))
    found = [re.fullmatch(r"gpu(?::[\w.-]+)?:(\d+)", one) for one in asked.split(",")]
    gpus = sum(int(one[1]) for one in found if one is not None)
    if asked and gpus != gpus_of(recipe):
        raise LaunchError(
            f"launch.sbatch.gres {asked!r}: {gpus} GPUs a node, but this {recipe.stage} takes {gpus_of(recipe)} "
            f"(launch.gpus_per_node; of eval, devices); write gpu:{gpus_of(recipe)}, or gpu:TYPE:{gpus_of(recipe)}"
        )


def _check_server(recipe: Any) -> None:
    launch = recipe.launch
    serves = recipe.stage == "grpo" and recipe.policy == "vllm" and recipe.vllm.mode == "server"
    if launch.server_nodes and not serves:
        raise LaunchError(
            f"launch.server_nodes {launch.server_nodes}: only grpo with policy: vllm and vllm.mode: server has a "
            f"server; set these, or server_nodes: 0"
        )
    if launch.server_nodes > 1:
        raise LaunchError(f"launch.server_nodes {launch.server_nodes}: one node serves vLLM; server_nodes: 1")
    if serves and not launch.server_nodes and recipe.vllm.host in ("127.0.0.1", "localhost"):
        raise LaunchError(
            "vllm.mode server: nothing serves on the nodes; give launch.server_nodes: 1, or vllm.host of a server"
        )
    if launch.server_nodes and recipe.vllm.tensor_parallel > max(1, launch.gpus_per_node):
        raise LaunchError(
            f"vllm.tensor_parallel {recipe.vllm.tensor_parallel}: the serving node has {launch.gpus_per_node} GPUs"
        )


def seconds_of(time: str) -> int:
    """Slurm's ways to write a time limit (minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s), in seconds."""
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return sys.maxsize
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if found is None:
        raise LaunchError(f"launch.time {time!r}: write it as HH:MM:SS or D-HH:MM:SS")
    days, first, second, third = (None if part is None else int(part) for part in found.groups())
    assert first is not None
    if days is not None or third is not None:
        return ((days or 0) * 24 + first) * 3600 + (second or 0) * 60 + (third or 0)
    return first * 60 + (second or 0)


def processes_of(recipe: Any) -> int:
    """Processes of a task of an array, each of which gets launch.cpus_per_rank."""
    return int(recipe.jobs) if recipe.stage == "eval" else 1


def gpus_of(recipe: Any) -> int:
    """GPUs a node: those of training, and those that an evaluation names."""
    if recipe.stage in TRAINING:
        return int(recipe.launch.gpus_per_node)
    if recipe.stage == "eval":
        return len({device for device in recipe.devices if device.startswith("cuda")})
    return 0
