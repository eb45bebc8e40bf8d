"""How a model is spread over ranks: DeepSpeed's ZeRO by `optim.deepspeed`, torch's FSDP2 by `optim.fsdp2`.

`optim.deepspeed` is the name of a file in train/deepspeed/ (zero2, zero2_offload, zero3, zero3_offload) or a path of
your own. Which one when, and what was run: docs/SHARDING.md.

Precision, by which `whilst plan` counts (train/memory.py):

| model.dtype | spread by | weights | gradients | AdamW | forward and backward |
|---|---|---|---|---|---|
| float32 | anything | float32 | float32 | two float32 moments | float32 |
| bfloat16 | nothing (DDP) | float32 | float32 | two float32 moments | autocast: bfloat16 kernels |
| bfloat16 | fsdp2 | float32 shards, gathered as bfloat16 | float32 | two float32 moments | bfloat16 |
| bfloat16 | deepspeed | bfloat16 | made in bfloat16, summed in float32 | moments and a float32 copy | bfloat16 |

So with DeepSpeed in bfloat16 a trained weight costs 2 + 4 + 12 bytes, of which the ranks share what their stage shards,
and a frozen one 2. The float32 copy starts from the bfloat16 weights. The final folder holds the bfloat16 weights that
the forward used; `consolidate` gives the float32 copy of a checkpoint.

The optimiser is torch's AdamW everywhere. DeepSpeed's own Adam would be built with g++ when a run starts.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from train.stage import StageError, TrainRecipe, prepare_model, ranks
from whilst.backbones.base import Backbone

SHIPPED = Path(__file__).with_name("deepspeed")
MODEL_SHARDS = "pytorch_model_fsdp_0"  # accelerate's name of FSDP2's folder in a checkpoint

# What the recipe says already. A file may leave these out or say "auto".
FROM_THE_RECIPE = {
    "train_batch_size": "optim.batch_size, optim.accumulation and the ranks",
    "train_micro_batch_size_per_gpu": "optim.batch_size",
    "gradient_accumulation_steps": "optim.accumulation or optim.global_batch",
    "gradient_clipping": "optim.max_grad_norm",
}
SECTIONS_OF_THE_RECIPE = {"optimizer": "learning_rate, betas, weight_decay", "scheduler": "schedule, warmup_steps"}


def shipped() -> list[str]:
    """The names that optim.deepspeed may take beside a path."""
    return sorted(file.stem for file in SHIPPED.glob("*.json"))


def read_deepspeed(name: str) -> tuple[Path, dict[str, Any]]:
    """The configuration that optim.deepspeed names, as it stands in its file. StageError: there is none, or no JSON."""
    file = SHIPPED / f"{name}.json" if name in shipped() else Path(name)
    if not file.is_file():
        raise StageError(
            f"optim.deepspeed: {name!r} is neither a file nor one of {', '.join(shipped())}; choose one of them, or "
            f"give the path of a DeepSpeed configuration"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{file}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise StageError(f"{file}: a DeepSpeed configuration is an object of keys, not {type(config).__name__}")
    return file, config


def deepspeed_config(name: str, dtype: str) -> dict[str, Any]:
    """The configuration for a recipe whose model.dtype is `dtype`: what the recipe says is left to it.

    StageError: the file says itself what the recipe says, or would train or save something else than it.
    """
    file, config = read_deepspeed(name)

    def refuse(key: str, why: str) -> StageError:
        return StageError(f"optim.deepspeed: {file}: {key}: {why}")

    for key, says in FROM_THE_RECIPE.items():
        if config.setdefault(key, "auto") != "auto":
            raise refuse(key, f'is {config[key]!r}, but {says} of the recipe say it; write "auto"')
    for key, says in SECTIONS_OF_THE_RECIPE.items():
        if key in config:
            raise refuse(key, f"the recipe's optim says it ({says}); remove the section")
    for key in ("fp16", "amp"):
        if key in config and config[key].get("enabled", True) is not False:
            raise refuse(key, "a recipe's model.dtype is float32 or bfloat16; remove the section")
    bf16 = config.setdefault("bf16", {})
    if bf16.setdefault("enabled", "auto") not in ("auto", dtype == "bfloat16"):
        raise refuse("bf16.enabled", f'is {bf16["enabled"]!r}, but model.dtype of the recipe is {dtype}; write "auto"')
    for key in ("bf16_master_weights_and_grads", "bf16_optimizer_states"):
        if bf16.get(key):
            raise refuse(f"bf16.{key}", "updates below bfloat16's steps would be lost; remove it")
    zero = config.get("zero_optimization", {})
    if zero.get("stage") not in (1, 2, 3):
        raise refuse("zero_optimization.stage", f"is {zero.get('stage')!r}; choose 1, 2 or 3, or leave deepspeed out")
    if zero["stage"] == 3 and not zero.setdefault("stage3_gather_16bit_weights_on_model_save", True):
        raise refuse(
            "zero_optimization.stage3_gather_16bit_weights_on_model_save", "must be true: a run saves its model"
        )
    if config.setdefault("zero_force_ds_cpu_optimizer", False):
        raise refuse("zero_force_ds_cpu_optimizer", "must be false: the optimiser is torch's AdamW")
    return config


def sharding_arguments(recipe: TrainRecipe) -> dict[str, Any]:
    """What TrainingArguments must know of how the model is spread."""
    if recipe.optim.deepspeed is not None:
        return {"deepspeed": deepspeed_config(recipe.optim.deepspeed, recipe.model.dtype)}
    if not recipe.optim.fsdp2:
        return {}
    return {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}


def check(recipe: TrainRecipe) -> None:
    """StageError for what cannot be spread as the recipe says."""
    o = recipe.optim
    if o.deepspeed is not None:
        deepspeed_config(o.deepspeed, recipe.model.dtype)
    if (o.deepspeed is not None or o.fsdp2) and "RANK" not in os.environ:
        key = "deepspeed" if o.deepspeed is not None else "fsdp2"
        raise StageError(
            f"optim.{key}: ranks are started together, a single one too: `torchrun --nproc_per_node N -m whilst.cli "
            f"{recipe.stage} RECIPE` or `whilst launch RECIPE`; or leave it out (a null, a false)"
        )
    if not o.fsdp2:
        return
    if ranks() == 1:
        raise StageError("optim.fsdp2: there is one rank, and nothing to spread; start several, or leave it out")
    if recipe.model.lora is not None:
        raise StageError("optim.fsdp2: adapters are not trained so; use optim.deepspeed=zero3 with model.lora")
    if recipe.stage != "sft":
        raise StageError(f"optim.fsdp2: rollouts of {recipe.stage} need whole weights; use optim.deepspeed=zero3")


def spread_model(recipe: TrainRecipe) -> Backbone:
    """recipe.model as `prepare_model` makes it, before there is a trainer. Under ZeRO-3 each rank keeps its own part of
    every weight from the start, so that a model which no rank could hold can be loaded. StageError as `check`."""
    check(recipe)
    with _loading(recipe):
        backbone = prepare_model(recipe.model)
    keep_positions_exact(backbone.model)
    return backbone


@contextlib.contextmanager
def _loading(recipe: TrainRecipe) -> Iterator[None]:
    config = sharding_arguments(recipe).get("deepspeed")
    if config is None or config["zero_optimization"]["stage"] != 3:
        yield
        return
    alive = TrainingArguments(  # while it lives, transformers loads under deepspeed.zero.Init
        output_dir=recipe.output,
        deepspeed=copy.deepcopy(config),
        bf16=recipe.model.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
    )
    import deepspeed

    deepspeed.init_distributed(auto_mpi_discovery=False)  # zero.Init counts ranks by it
    yield
    del alive


def switch_fsdp2_on(trainer: Any) -> None:
    """Have a trainer spread by FSDP2 what TrainingArguments ask it to; no change where they do not.

    On CPUs accelerate would fall back to DDP without a word. And it gives the head a unit of its own, which TRL's fused
    head gathers in a way whose gradient is that of one rank: head and embeddings belong into the root's unit.
    """
    if trainer.args.fsdp_plugin_args is None:
        return
    prepare = trainer.accelerator._prepare_fsdp2

    def prepare_with_head_in_root(*args: Any) -> Any:
        model: Any = next((one for one in args if isinstance(one, torch.nn.Module)), None)
        if model is None:
            return prepare(*args)
        model.get_input_embeddings = model.get_output_embeddings = lambda: None
        try:
            return prepare(*args)
        finally:
            del model.get_input_embeddings, model.get_output_embeddings

    trainer.accelerator._prepare_fsdp2 = prepare_with_head_in_root
    trainer.accelerator.get_state_dict = _gathered  # accelerate's leaves tensors that have not been waited for
    if trainer.is_fsdp_enabled:
        return
    state = trainer.accelerator.state
    if state.distributed_type != DistributedType.MULTI_CPU:
        raise StageError(f"optim.fsdp2: accelerate runs {state.distributed_type} instead")
    plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    if trainer.args.bf16:
        plugin.set_mixed_precision("bf16")
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
    trainer.is_fsdp_enabled = True


def _gathered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The whole state dict of a model spread by FSDP2, on the CPU. All ranks take part."""
    whole = {}
    for name, part in model.state_dict().items():
        full = part.full_tensor() if isinstance(part, DTensor) else part
        whole[name] = (full.wait() if isinstance(full, AsyncCollectiveTensor) else full).detach().cpu().clone()
    return whole


def keep_positions_exact(model: torch.nn.Module) -> None:
    """Put float32 frequencies of the positions in place of those that zero.Init has rounded to bfloat16, with which the
    positions of a long video would run together. StageError: a rounded buffer of another kind."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    for module in base.modules():
        rounded = {
            name: buffer
            for name, buffer in module.named_buffers(recurse=False)
            if buffer.is_floating_point() and buffer.dtype != torch.float32
        }
        if not rounded:
            continue
        if "RotaryEmbedding" not in type(module).__name__:
            raise StageError(
                f"optim.deepspeed: {type(module).__name__}.{next(iter(rounded))} was rounded to bfloat16 when it was "
                f"loaded under ZeRO-3, and how to make it anew is not known; use zero2, or model.dtype=float32"
            )
        for name, buffer in rounded.items():
            setattr(module, name, torch.zeros_like(buffer, dtype=torch.float32))
        base._init_weights(module)
        if not all(bool(getattr(module, name).any()) for name in rounded):
            raise StageError(f"optim.deepspeed: {type(module).__name__} was not made anew in float32; use zero2")


def consolidate(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The whole state dict of a checkpoint folder that sharded ranks wrote, under the model's own names, on the CPU.

    Needs neither those ranks nor a GPU. Of ZeRO: the float32 copies of trained weights, frozen ones in their own dtype;
    of a training of adapters, the adapters alone, as its checkpoints hold no more. Of FSDP2: its float32 shards.

    DeepSpeed's checkpoints are pickles, which can run code when they are read: only for checkpoints of your own runs.
    StageError: the folder holds no shards.
    """
    checkpoint = Path(checkpoint)
    if (checkpoint / "latest").is_file():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with contextlib.redirect_stdout(io.StringIO()):  # it tells of every file
            return dict(get_fp32_state_dict_from_zero_checkpoint(str(checkpoint)))
    if (checkpoint / MODEL_SHARDS).is_dir():
        return _whole_of_fsdp2(checkpoint / MODEL_SHARDS)
    raise StageError(
        f"{checkpoint}: neither ZeRO's shards (a file `latest`) nor FSDP2's (a folder {MODEL_SHARDS}); give a "
        f"checkpoint-* folder of a run with optim.deepspeed or optim.fsdp2"
    )


def _whole_of_fsdp2(folder: Path) -> dict[str, torch.Tensor]:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    found: dict[str, Any] = {}
    _load_state_dict(found, storage_reader=FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return dict(found["model"])
