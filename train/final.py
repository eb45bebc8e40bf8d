"""The final model of a training: a folder that is whole, or that nothing loads."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from train.checkpoint_files import CheckpointError
from train.checkpoints import failing, parameter_bytes, shared_part
from train.segments import noted_segments
from train.stage import TrainRecipe
from train.together import together
from whilst.checkpoint import CONTRACT, Contract
from whilst.files import flush, sync
from whilst.recipe import save_resolved


def save_final(trainer: Any, recipe: TrainRecipe, contract: Contract) -> None:
    """The trained model as an ordinary HF folder, with the base's processor files and the streaming contract.

    Written elsewhere first. The contract, without which nothing loads the folder, goes first and comes back last.
    """
    out, main = Path(recipe.output), trainer.is_world_process_zero()
    needed = sum(parameter_bytes(p) for p in trainer.model.parameters() if p.requires_grad)
    with shared_part(trainer, out, needed) as part:
        with failing(trainer):
            if trainer.is_fsdp_enabled:  # its checkpoints stay in shards
                trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
            trainer.save_model(str(part))
            if main:
                trainer.state.save_to_json(str(part / "trainer_state.json"))
                for name in ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja"):
                    file = cached_file(recipe.model.path, name, _raise_exceptions_for_missing_entries=False)
                    if file is not None:
                        shutil.copy(file, part / name)
                seconds = noted_segments(out) or contract.segment_seconds
                save_resolved(replace(contract, segment_seconds=seconds), part / CONTRACT)
                flush(part)
        with together(CheckpointError):
            if main:
                (out / CONTRACT).unlink(missing_ok=True)
                sync(out)
                for made in part.iterdir():
                    if made.name != CONTRACT:
                        os.replace(made, out / made.name)
                sync(out)
                os.replace(part / CONTRACT, out / CONTRACT)
                sync(out)
