"""What hardware a recipe asks for: `whilst launch` renders it into a Slurm script, `whilst plan` estimates with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Launch:
    """A recipe's `launch:` section; options of `whilst launch` replace its keys.

    nodes: those that train (or decode, or evaluate). gpus_per_node: 0 for ranks on CPU. ranks_per_node: processes of
    training a node; None: one a GPU. gpu: which one the estimates of `whilst plan` are for. server_nodes: further nodes
    that serve vLLM (grpo with vllm.mode server). time: Slurm's limit of one attempt, such as 24:00:00. signal_seconds:
    so long before that limit Slurm says so, and training saves. tasks: of a job array (synth, eval). setup: shell lines
    with which every node begins, such as `module load cuda`. sbatch: further options by name, such as `constraint`.
    """

    nodes: int = 1
    gpus_per_node: int = 8
    ranks_per_node: int | None = None
    gpu: str = "a100-80gb"
    cpus_per_rank: int = 8
    memory: str | None = None
    server_nodes: int = 0
    tasks: int = 1
    time: str = "24:00:00"
    signal_seconds: int = 300
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: str = ""
    sbatch: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus_per_rank", "tasks", "signal_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"launch.{name} must be at least 1, not {getattr(self, name)}")
        if self.gpus_per_node < 0 or self.server_nodes < 0:
            raise ValueError("launch.gpus_per_node and launch.server_nodes cannot be below 0")
        if self.ranks_per_node is not None and self.ranks_per_node < 1:
            raise ValueError(f"launch.ranks_per_node must be at least 1, not {self.ranks_per_node}")

    @property
    def ranks(self) -> int:
        """Processes of training, on all nodes."""
        return self.nodes * (self.ranks_per_node or max(1, self.gpus_per_node))
