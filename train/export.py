"""A training run as a folder that others can load: `whilst export runs/demo/thinking --to runs/demo/exported`.

It holds consolidated weights (an adapter merged into its base, or by itself), configuration, tokenizer, processor
files, the streaming contract and a model card. Plain transformers loads it, StreamSession.from_pretrained streams it.
Weights come from the run's final model, or from a checkpoint, however it is sharded. What was written is loaded again
and compared with what was trained, tensor by tensor, before the folder gets its name.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import yaml  # type: ignore[import-untyped]
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from train.checkpoint_files import checkpoints, last_checkpoint, verify
from train.export_weights import Source, check_weights, generation, trained_model, untie, write_adapter
from train.model_card import Facts, card, figures
from train.segments import noted_segments
from whilst.checkpoint import CONTRACT, HUB_ID, NOT_PUBLISHED, Contract, read_contract
from whilst.exported import Exported, ExportError, read_exported, writing
from whilst.recipe import load_recipe, save_resolved, stage_of
from whilst.render import RENDERER

RECIPE = "recipe.yaml"
SHARD = "5GB"  # the largest file that the Hub's own tools write
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
PROCESSOR = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class ExportSettings:
    """How a run is exported. base: the Hub id of the model that it was trained from, where the run names a folder.
    checkpoint: a step; None: the final model, or the newest checkpoint where training has not ended."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    adapter: bool = False
    checkpoint: int | None = None
    base: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()
    report: Path | None = None
    shard: str = SHARD
    overwrite: bool = False


def is_run(folder: Path) -> bool:
    """Whether a folder is a training run's."""
    return (folder / RECIPE).is_file() and stage_of(folder / RECIPE) in ("sft", "grpo")


def export_run(run: Path, out: Path, settings: ExportSettings = ExportSettings()) -> Exported:
    """Write the exported folder `out` of a run. ExportError where something is missing, or is not as it was trained."""
    source = find(run, settings.checkpoint)
    base = published_base(source, settings)
    report = None if settings.report is None else figures(settings.report, source.weights)
    kind: Literal["model", "adapter"] = "adapter" if settings.adapter else "model"
    with writing(out, kind, overwrite=settings.overwrite, private=_private(source)) as part:
        _copy_files(source, part)
        contract = replace(source.contract, base=base or NOT_PUBLISHED, renderer=RENDERER)
        save_resolved(contract, part / CONTRACT)
        dtype = getattr(torch, settings.dtype)
        if settings.adapter:
            assert base is not None
            count = write_adapter(source, base, part, dtype)
            family = str(AutoConfig.from_pretrained(source.contract.base).model_type)
        else:
            model = trained_model(source, dtype)
            model.generation_config = generation(model, part)
            untie(model)
            model.save_pretrained(part, max_shard_size=settings.shard)
            count = check_weights(part, model, dtype)
            family = str(model.config.model_type)
        facts = Facts(
            run=source.run,
            step=source.step,
            recipe=source.recipe,
            contract=contract,
            base=base,
            license=settings.license or _licence(source.contract.base),
            datasets=settings.datasets,
            kind=kind,
            dtype=settings.dtype,
            family=family,
            parameters=count,
            report=report,
        )
        (part / "README.md").write_text(card(facts), encoding="utf-8")
    return read_exported(out)


# --- what is exported -------------------------------------------------------------------------------------------------


def find(run: Path, checkpoint: int | None) -> Source:
    """The final model of a run, its newest whole checkpoint where there is none yet, or the checkpoint of a step."""
    if not is_run(run):
        raise ExportError(f"{run}: it is no training run: it has no {RECIPE} of stage sft or grpo")
    recipe = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8"))
    if checkpoint is not None:
        weights = run / f"checkpoint-{checkpoint}"
        if not weights.is_dir():
            there = ", ".join(map(str, sorted(checkpoints(run))))
            raise ExportError(f"{weights}: no such checkpoint; this run has {there or 'none'}")
        verify(weights)
    elif (run / CONTRACT).is_file():
        return Source(run, run, None, read_contract(run), recipe)
    else:
        newest = last_checkpoint(run)
        if newest is None:
            raise ExportError(f"{run}: neither a final model nor a whole checkpoint; train it first")
        weights = newest
    contract = read_contract(run) if (run / CONTRACT).is_file() else _contract_of(run)
    contract = replace(contract, segment_seconds=noted_segments(run) or contract.segment_seconds)
    return Source(run, weights, int(weights.name.split("-")[1]), contract, recipe)


def _contract_of(run: Path) -> Contract:
    """The contract that a run's final model will have, of its recipe."""
    if stage_of(run / RECIPE) == "sft":
        from train import sft

        return sft.contract_of(load_recipe(run / RECIPE, sft.SFTRecipe))
    from train import grpo_recipe as grpo

    recipe = load_recipe(run / RECIPE, grpo.GRPORecipe)
    contract = grpo.contract_of(recipe)
    return replace(contract, base=recipe.model.path, render=grpo.render_config(contract, recipe.context))


def published_base(source: Source, settings: ExportSettings) -> str | None:
    """The Hub id of what a run was trained from: stated, or found behind it, run by run; None where there is none.

    An adapter must name it, and the very model that it was trained on: not what that one was trained from.
    """
    if settings.base is not None:
        if not HUB_ID.fullmatch(settings.base):
            raise ExportError(f"--base {settings.base!r} is no id on the Hub; write it as owner/name")
        return settings.base
    base = source.contract.base
    if settings.adapter:
        if not source.adapter:
            raise ExportError(f"{source.run}: it was trained without LoRA, so it has no adapter; leave --adapter out")
        if Path(base).exists() or not HUB_ID.fullmatch(base):
            raise ExportError(
                f"{source.run}: its adapter was trained on the folder {base}; push that one first and name it with "
                f"--base ID, or export without --adapter"
            )
    seen: set[str] = set()
    while Path(base, CONTRACT).is_file() and base not in seen:
        seen.add(base)
        base = read_contract(base).base
    return base if HUB_ID.fullmatch(base) and not Path(base).exists() else None


def _private(source: Source) -> tuple[str, ...]:
    """Paths of this machine that are not to leave it."""
    base = source.contract.base
    paths = {str(Path(where).resolve()) for where in (source.run, source.weights, base) if Path(where).exists()}
    return (*sorted(paths), str(Path.home()) + "/")


def _copy_files(source: Source, part: Path) -> None:
    """Tokenizer (all of it from one place) and processor files, of the checkpoint, the run or the base model."""
    places = (source.weights, source.run)
    for place in places:
        if (place / TOKENIZER[0]).is_file():
            for name in TOKENIZER:
                if (place / name).is_file():
                    shutil.copyfile(place / name, part / name)
            break
    else:
        AutoTokenizer.from_pretrained(source.contract.base).save_pretrained(part)
    for name in PROCESSOR:
        near = next((place / name for place in places if (place / name).is_file()), None)
        missing = {"_raise_exceptions_for_missing_entries": False}
        found = near or cached_file(source.contract.base, name, **missing)
        if found is not None:
            shutil.copyfile(found, part / name)
    for name in (*TOKENIZER[:2], PROCESSOR[0]):
        if not (part / name).is_file():
            raise ExportError(f"{source.run}: {name} is neither there nor with its base {source.contract.base}")


def _licence(base: str) -> str | None:
    """The licence that the base model's own card states; None: it has no card here."""
    from huggingface_hub import ModelCard

    file = cached_file(base, "README.md", _raise_exceptions_for_missing_entries=False, local_files_only=True)
    return None if file is None else ModelCard.load(file).data.license
