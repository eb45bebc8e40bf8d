"""What training stages share: settings of model, optimiser and reports, and what of them TRL and the loader take."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from whilst.backbones.base import Backbone, add_lora, freeze_vision, load
from whilst.recipe import Recipe


class StageError(ValueError):
    """A training that cannot start as its recipe says; names the key and the fix."""


def ranks() -> int:
    """How many processes train together, as torchrun and accelerate say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the language model; merged or adapter checkpoints are PEFT's."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    full: tuple[str, ...] = ()  # modules trained whole beside the adapters: merger, lm_head


@dataclass(frozen=True)
class ModelSettings:
    """Checkpoint (Hub id or folder) and how it is trained. Pixels are counted a frame."""

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: str = "whilst_sdpa"
    freeze_vision: Literal["none", "tower", "tower+merger"] = "none"
    lora: LoraSettings | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class OptimSettings:
    """AdamW for `steps` updates, or as many as make `epochs`. batch_size is a device's; the global batch is batch_size
    * accumulation * ranks, and where `global_batch` is given, accumulation follows from it. The learning rate rises
    over warmup_steps, or warmup_ratio of all. deepspeed: zero2, zero2_offload, zero3, zero3_offload, or a file."""

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 1
    accumulation: int = 1
    global_batch: int | None = None
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    schedule: Literal["constant", "linear", "cosine", "decay_second_half"] = "cosine"
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    deepspeed: str | None = None
    fsdp2: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("optim: give steps or epochs, one of them")
        if self.global_batch is not None and self.accumulation != 1:
            raise ValueError("optim: accumulation follows from global_batch; give one of them")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("optim: give warmup_steps or warmup_ratio, one of them")
        if not 0.0 <= self.warmup_ratio < 1.0:
            raise ValueError(f"optim.warmup_ratio is a share of all steps, from 0 to 1, not {self.warmup_ratio}")
        if self.deepspeed is not None and self.fsdp2:
            raise ValueError("optim: deepspeed and fsdp2 are two ways to shard a model; give one of them")

    def at(self, ranks: int, samples: int | None = None) -> OptimSettings:
        """The same with steps, accumulation and warmup_steps in numbers. samples: what an epoch holds (rows or packs).

        StageError: global_batch is no multiple of what the ranks hold, or epochs are asked for of nothing.
        """
        accumulation = self.accumulation
        if self.global_batch is not None:
            accumulation, left = divmod(self.global_batch, self.batch_size * ranks)
            if left or not accumulation:
                raise StageError(
                    f"optim.global_batch {self.global_batch} is no multiple of batch_size {self.batch_size} * {ranks} "
                    f"ranks; change the number of ranks, batch_size or global_batch"
                )
        steps = self.steps
        if steps is None:
            if not samples:
                raise StageError("optim.epochs: there is no sample to count them by; give optim.steps")
            assert self.epochs is not None
            steps = max(1, math.ceil(self.epochs * samples / (self.batch_size * accumulation * ranks)))
        warmup = self.warmup_steps or math.ceil(self.warmup_ratio * steps)
        return replace(
            self,
            steps=steps,
            epochs=None,
            accumulation=accumulation,
            global_batch=None,
            warmup_steps=warmup,
            warmup_ratio=0.0,
        )


@dataclass(frozen=True)
class WandbSettings:
    """A run of W&B. What is None is taken from WANDB_PROJECT (else whilst), WANDB_ENTITY and WANDB_MODE; without a mode
    it is online where there is a key, else offline, and says so."""

    project: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainRecipe(Recipe):
    """What every training recipe says. `output` is the run's folder."""

    output: str = field(kw_only=True)
    model: ModelSettings = field(kw_only=True)
    optim: OptimSettings = field(kw_only=True)
    save_steps: int = field(kw_only=True, default=0)  # 0: only the final model
    keep_checkpoints: int | None = field(kw_only=True, default=2)  # the newest; None: all
    log_steps: int = field(kw_only=True, default=10)
    report_to: tuple[str, ...] = field(kw_only=True, default=())
    wandb: WandbSettings = field(kw_only=True, default=WandbSettings())


def optimiser_arguments(recipe: TrainRecipe) -> dict[str, Any]:
    """What the TRL configurations of all stages share: optimiser, schedule, precision, saving, reporting."""
    o = recipe.optim
    if not torch.cuda.is_available():  # accelerate would say "cpu:0", from which several ranks cannot resume
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    # transformers' "constant" leaves warmup out in silence
    schedule: dict[str, Any] = {"lr_scheduler_type": {"constant": "constant_with_warmup"}.get(o.schedule, o.schedule)}
    if o.schedule == "decay_second_half":
        assert o.steps is not None, "settings are in numbers by now: OptimSettings.at"
        decay = o.steps // 2
        schedule = {
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": decay, "decay_type": "linear", "min_lr_ratio": 0.0},
        }
    return dict(
        output_dir=recipe.output,
        max_steps=o.steps,
        gradient_accumulation_steps=o.accumulation,
        learning_rate=o.learning_rate,
        weight_decay=o.weight_decay,
        adam_beta1=o.betas[0],
        adam_beta2=o.betas[1],
        warmup_steps=o.warmup_steps,
        max_grad_norm=o.max_grad_norm,
        gradient_checkpointing=o.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if o.gradient_checkpointing else None,
        bf16=recipe.model.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=recipe.log_steps,
        save_strategy="steps" if recipe.save_steps else "no",
        save_steps=recipe.save_steps or 500,
        report_to=list(recipe.report_to),
        run_name=recipe.name,
        disable_tqdm=not sys.stderr.isatty(),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,
        **schedule,
    )


def own_device() -> str:
    """Where this rank trains. Asked before ranks have met, which is when "cuda" alone would be GPU 0 to all of a node.

    StageError: the node shows this rank fewer GPUs than it has ranks.
    """
    if not torch.cuda.is_available():
        return "cpu"
    rank, seen = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= seen:
        raise StageError(
            f"rank {rank} of its node sees {seen} GPUs: each rank must see all of its node; start no more ranks than "
            f"there are (launch.ranks_per_node), and have Slurm bind none to a single GPU"
        )
    return f"cuda:{rank}"


def prepare_model(settings: ModelSettings) -> Backbone:
    """Load, freeze and wrap the checkpoint as the recipe says."""
    backbone = load(
        settings.path,
        backend=settings.attention,
        dtype=torch.float32,  # master weights; bfloat16 recipes compute under autocast
        device=own_device(),
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )
    freeze_vision(backbone, settings.freeze_vision)
    if settings.lora is not None:
        lora = settings.lora
        add_lora(backbone, lora.rank, lora.alpha, lora.dropout, lora.targets, lora.full)
    return backbone
