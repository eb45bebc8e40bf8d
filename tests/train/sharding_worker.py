"""Trains SFT recipes one after the other on the ranks that are started together (tests/train/grpo_runs.run_apart), and
keeps what the trained, still sharded model says of the first sample, and by its stock forward (plain_logits.py):
OUTPUT/said.pt, with its dtypes.

Faults: killed (the last recipe is killed by SIGKILL on all ranks when 3 updates are done).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from tests.train import plain_logits
from tests.train.grpo_worker import without_ds_kernels
from train import sft
from whilst.recipe import load_recipe


def said(trainer: Any) -> torch.Tensor:
    """Log-probs of the labels of the first sample, by the model as it is spread. All ranks take part."""
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[0]]))
    trainer.model_wrapped.eval()
    with torch.no_grad():
        _, outputs = trainer.compute_loss(trainer.model_wrapped, batch, return_outputs=True)
    return outputs.log_probs[0].float()


def stock(trainer: Any) -> torch.Tensor:
    """Logits by the stock forward of the model as it is spread. All ranks take part."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backend = base.config._attn_implementation
    base.set_attn_implementation("sdpa")
    words = plain_logits.logits(trainer.model_wrapped, base.config)
    base.set_attn_implementation(backend)
    return words


class Kill(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def main(fault: str, paths: Sequence[str]) -> None:
    without_ds_kernels()
    recipes = [load_recipe(path, sft.SFTRecipe) for path in paths]
    save, build, end = sft.save_final, sft.build_trainer, Accelerator.end_training

    def save_and_tell(trainer: Any, recipe: Any, contract: Any) -> None:
        words, logits = said(trainer), stock(trainer)
        save(trainer, recipe, contract)
        if trainer.is_world_process_zero():
            model = trainer.model
            dtypes = {"weights": {str(one.dtype) for one in model.parameters()}}
            dtypes |= {"buffers": {str(one.dtype) for one in model.buffers() if one.is_floating_point()}}
            torch.save({"logps": words, "logits": logits, **dtypes}, Path(recipe.output, "said.pt"))

    sft.save_final = save_and_tell
    for i, recipe in enumerate(recipes):
        last = i + 1 == len(recipes)
        Accelerator.end_training = end if last else lambda self: None  # type: ignore[method-assign]
        if last and fault == "killed":

            def build_and_kill(recipe: Any) -> Any:
                trainer = build(recipe)
                trainer.add_callback(Kill())
                return trainer

            sft.build_trainer = build_and_kill
        for name in (
            "ACCELERATE_USE_DEEPSPEED",
            "ACCELERATE_USE_FSDP",
        ):  # a process of its own never sees another run's
            os.environ.pop(name, None)
        unset_hf_deepspeed_config()
        sft.run(recipe)
        print("trained", recipe.output, flush=True)
