"""The checkpoint that a recipe starts from, where an earlier recipe is still to write it: found by its `output`.

`model.path: runs/vst/sft_7b` with no such folder is looked for among the recipes beside the planned one, and those of
the folder above; the recipe that writes it says which checkpoint it starts from, and so on down to one whose sizes are
known. A tiny checkpoint is built in a temporary folder: that takes a second.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from train.plan import PlanError, Start
from train.sft import SFTRecipe, contract_of
from whilst.backbones.published import PUBLISHED, is_local
from whilst.checkpoint import CONTRACT, Contract
from whilst.recipe import key_of, load_recipe, stage_of, writer_of
from whilst.tiny import TinyRecipe, run


def find_start(path: str, recipe: Path, scratch: Path) -> Start | None:
    """What stands under a checkpoint that is not here; None where it is, or is published.

    scratch: a folder for a tiny checkpoint. PlanError: nothing here says what the checkpoint will be.
    """
    if is_local(path) or path in PUBLISHED:
        return None
    contract: Contract | None = None
    for _ in range(8):
        if is_local(path) or path in PUBLISHED:
            return Start(path, contract)
        if (Path(path) / CONTRACT).exists():
            raise PlanError(f"{path}: {CONTRACT} is here but config.json is not; the folder is not whole")
        found = writer_of(path, recipe)
        if found is None:
            raise PlanError(
                f"model.path {path}: not on this machine, not a published checkpoint that is known here, and no recipe "
                f"beside {recipe} writes it. Run the stage that does, or plan with model.path=<the checkpoint under it>"
            )
        stage = stage_of(found)
        if stage == "tiny":
            return Start(_tiny(found, scratch), contract)
        if stage == "sft" and contract is None:
            contract = contract_of(load_recipe(found, SFTRecipe))
        path = str(key_of(found, "model.path"))
    raise PlanError(f"model.path {path}: recipes beside {recipe} start from each other in a circle")


def _tiny(recipe: Path, scratch: Path) -> str:
    loaded = load_recipe(recipe, TinyRecipe)
    words = loaded.words_from if loaded.words_from is not None and Path(loaded.words_from).exists() else None
    return str(run(replace(loaded, output=str(scratch / "tiny"), words_from=words)))
