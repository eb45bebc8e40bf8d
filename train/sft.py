"""Supervised fine-tuning on rendered rows: TRL's SFTTrainer with our mask, positions, loss weights and collator.

    whilst sft recipes/tiny/thinking.yaml                       # one process
    torchrun --nproc_per_node 8 -m whilst.cli sft RECIPE        # several

The run directory gets recipe.yaml (resolved), rejected.jsonl, checkpoints, the final model with `streaming.yaml` (what
StreamSession must know: layout, rule, scheme, turns), and trainer_state.json with the learning curve.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from train.attempt import attempt, claim, is_main
from train.checkpoints import Resumable, WholeCheckpoints
from train.collate import Collator
from train.dropping import Dropping, DropSimilar, Epochs
from train.dropping import check as check_dropping
from train.final import save_final
from train.losses import Decisions, SFTLoss, total_count
from train.prepare import Rows, measure, rejected
from train.reporting import prepare_reporting
from train.rows import DataError, Item, Limits, Rejected, Thoughts, pack
from train.segments import note_segments
from train.sharding import sharding_arguments, spread_model, switch_fsdp2_on
from train.stage import (
    TrainRecipe,
    optimiser_arguments,
    ranks,
)
from whilst.checkpoint import Contract
from whilst.render import IGNORE, Renderer, TokenRow
from whilst.render_config import RenderConfig
from whilst.sample import read_samples

PREPARED, PREPARED_VALIDATION = "prepared.json", "prepared_validation.json"


@dataclass(frozen=True)
class DataSettings:
    """Samples, as `whilst.sample.read_samples` takes them; several files are read one after the other, and one that is
    named twice counts twice. thoughts: drop them for arms that do not think, or put silence in their place.
    max_rejected: how many samples may be left out. The loss on `validation` is logged before the first step and after
    the last. frames, total_pixels: most of a sample, as train.rows.Limits takes them; of training alone, since a stream
    that is served does not know how long it will be. keep_megabytes: of decoded frames and rows that a process keeps;
    what is beyond is decoded again when it is needed. workers: processes that decode ahead of a rank, each with a
    memory of its own; 0: the rank itself."""

    train: str | tuple[str, ...]
    validation: str | None = None
    fps: float = 2.0
    thoughts: Thoughts = "keep"
    limit: int | None = None
    frames: int | None = None
    total_pixels: int | None = None
    pack_tokens: int | None = None
    max_rejected: int = 0
    drop_similar: DropSimilar | None = None
    keep_megabytes: float = 4000.0
    workers: int = 0

    def __post_init__(self) -> None:
        _ = self.limits  # or it raises

    @property
    def limits(self) -> Limits:
        return Limits(self.frames, self.total_pixels)


@dataclass(frozen=True)
class SFTRecipe(TrainRecipe):
    """One SFT stage. policy: the memory policies that the trained folder is served with, as Contract takes them."""

    data: DataSettings = field(kw_only=True)
    render: RenderConfig = field(kw_only=True, default=RenderConfig())
    loss: SFTLoss = field(kw_only=True, default=SFTLoss())
    policy: tuple[dict[str, Any], ...] = field(kw_only=True, default=())


class StreamingSFTTrainer(WholeCheckpoints, SFTTrainer):
    """SFTTrainer whose batches carry loss weights. The loss is sum(w * nll) / sum(w) over the global batch, so how rows
    lie on ranks and micro-batches changes nothing. decisions: weighs some labels further while training
    (train/losses.py); a held-out loss is always the plain one, so that runs can be compared."""

    def __init__(self, *args: Any, decisions: Decisions | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.decisions = decisions
        # Qwen-VL classes say False; the Trainer would then divide our global mean by the accumulation steps once more
        self.model_accepts_loss_kwargs = True

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        switch_fsdp2_on(self)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        total = sum((batch["loss_weight"][:, 1:].sum() for batch in batch_samples), torch.zeros(())).to(device)
        if self.decisions is not None:
            counts = total_count(self.decisions, batch_samples).to(device)
            self.decisions.of_update = self.accelerator.gather(counts).view(-1, len(counts)).sum(0)
        return self.accelerator.gather(total).sum() if self.args.average_tokens_across_devices else total

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"].roll(-1, 1)  # the row that predicts each token
        labels[:, -1] = IGNORE
        kept = (labels != IGNORE).flatten().nonzero()[:, 0]  # the LM head runs on these alone
        weights = inputs["loss_weight"].roll(-1, 1).flatten()[kept][None]
        outputs = model(
            **{k: v for k, v in inputs.items() if k not in ("loss_weight", "labels", "dropped")},
            kept=kept,
            shift_labels=labels.flatten()[kept][None],
            fused_lm_head=True,
            use_cache=False,
        )
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch
        mode = "train" if model.training else "eval"
        if self.decisions is not None and model.training:
            classes = self.decisions.classes(inputs["labels"]).roll(-1, 1).flatten()[kept][None]
            weights = weights * self.decisions.factors(classes, outputs.log_probs)
            for name, recall in self.decisions.recalls(classes, outputs.is_top1).items():
                self._metrics[mode][name].append(recall)
        dropped = inputs["thin"].dropped if "thin" in inputs else inputs.get("dropped")
        if dropped is not None:
            self._metrics[mode]["dropped_share"].append(float(dropped[0] / max(int(dropped[1]), 1)))
        loss = -(outputs.log_probs * weights).sum() / total
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages the gradients over ranks
        self._metrics[mode]["mean_token_accuracy"].append(outputs.is_top1.float().mean().item())
        return (loss, outputs) if return_outputs else loss

    def held_out(self, batches: Iterable[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Loss and top-1 accuracy over all labels of these batches, as weighted in training. Every rank takes all."""
        model, sums = self.model_wrapped, torch.zeros(3, dtype=torch.float64)
        model.eval()
        for batch in batches:
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, outputs = self.compute_loss(model, self._prepare_inputs(batch), return_outputs=True)
            weight = batch["loss_weight"][:, 1:].sum().item()
            accuracy = outputs.is_top1.float().mean().item()
            sums += torch.tensor([weight, weight * loss.item(), weight * accuracy], dtype=torch.float64)
        model.train()
        weight, loss, accuracy = (sums / sums[0]).tolist()
        return {"validation_loss": loss, "validation_accuracy": accuracy}


class HeldOut(TrainerCallback):
    """Logs the loss on held-out batches before the first step and after the last."""

    def __init__(self, trainer: StreamingSFTTrainer, batches: Callable[[], Iterable[dict[str, torch.Tensor]]]) -> None:
        self.trainer, self.batches = trainer, batches

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.trainer.log(self.trainer.held_out(self.batches()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.log(self.trainer.held_out(self.batches()))


def training_arguments(recipe: SFTRecipe) -> SFTConfig:
    """The TRL configuration of a recipe."""
    return SFTConfig(
        **optimiser_arguments(recipe),
        **sharding_arguments(recipe),
        per_device_train_batch_size=recipe.optim.batch_size,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=recipe.data.workers,
        max_length=None,
    )


@dataclass(frozen=True)
class Prepared:
    """Rows, their numbers by pack, what was rejected, and what was counted."""

    rows: Rows
    packs: list[list[int]]
    rejected: list[Rejected]
    counts: torch.Tensor

    def items(self, packs: Iterable[int]) -> list[list[Item]]:
        return [[self.rows[row] for row in self.packs[of]] for of in packs]


def prepare_data(
    data: DataSettings,
    path: str | Sequence[str],
    renderer: Renderer,
    keep: Path,
    count: Callable[[TokenRow], Sequence[int]] | None = None,
    counted: Sequence[str] = (),
) -> Prepared:
    """The rows of the samples at `path`, and what was rejected, which is listed beside `keep`. Too many rejections are
    an error."""
    samples = [s for one in ((path,) if isinstance(path, str) else path) for s in read_samples(one)[: data.limit]]
    rows = Rows(samples, renderer, data.fps, data.thoughts, data.keep_megabytes, data.limits)
    found = measure(rows, keep, count, counted)
    left_out = rejected(rows, found)
    file = keep.with_name(f"rejected{keep.stem.removeprefix('prepared')}.jsonl")
    if is_main():
        file.write_text("".join(json.dumps(asdict(r)) + "\n" for r in left_out))
    if len(left_out) > data.max_rejected:
        listed = "\n  ".join(f"{r.sample}: {r.reason}" for r in left_out[:5])
        raise DataError(
            f"{path}: {len(left_out)} samples cannot be used, data.max_rejected is {data.max_rejected}; "
            f"{file} lists all, first:\n  {listed}"
        )
    if not len(rows):
        raise DataError(f"{path}: no sample to train on")
    packs = [[row] for row in range(len(rows))]
    if data.pack_tokens is not None:
        packs = pack(rows.lengths, data.pack_tokens, [samples[sample].id for sample, _ in rows.places])
    counts = [torch.tensor(one.counts) for one in found if one.counts]
    return Prepared(rows, packs, left_out, torch.stack(counts).sum(0) if counts else torch.zeros(0))


def build_trainer(recipe: SFTRecipe) -> StreamingSFTTrainer:
    """Everything a run needs, ready for .train(). Raises where the recipe contradicts itself, before it reads data."""
    dropping = recipe.data.drop_similar
    contract_of(recipe)  # its policies fit, or it raises
    if dropping is not None:
        check_dropping(dropping, recipe.render, recipe.model.attention)
    set_seed(recipe.seed)
    out = Path(recipe.output)
    claim(recipe)
    prepare_reporting(recipe)
    backbone = spread_model(recipe)
    renderer = Renderer(backbone.tokenizer, backbone.spec, recipe.render)
    decisions = Decisions(recipe.loss.decision, renderer) if recipe.loss.decision is not None else None
    training_arguments(replace(recipe, optim=recipe.optim.at(ranks(), 1)))  # ranks meet here, as it says how they do
    prepared = prepare_data(
        recipe.data,
        recipe.data.train,
        renderer,
        out / PREPARED,
        (lambda row: decisions.count(torch.from_numpy(row.labels)[None]).tolist()) if decisions is not None else None,
        recipe.loss.decision.words if recipe.loss.decision is not None else (),
    )
    note_segments(prepared.rows.samples, out)
    if decisions is not None:
        decisions.take_data(prepared.counts)
    if is_main() and recipe.render.memory_cut is not None:
        cut = {sample.id: renderer.memory_left_out(sample.memory) for sample in prepared.rows.samples}
        told = [json.dumps({"sample": sample, "tokens": tokens}) + "\n" for sample, tokens in cut.items() if tokens]
        (out / "memory_cut.jsonl").write_text("".join(told))
    collator = Collator(backbone.spec, renderer.rule, recipe.model.attention, backbone.tokenizer.pad_token_id)
    recipe = replace(recipe, optim=recipe.optim.at(ranks(), len(prepared.packs)))
    thinned, callbacks = collator, list[TrainerCallback]([Resumable()])
    if dropping is not None:
        thins = Dropping(dropping, backbone.spec, recipe.seed)
        thinned = replace(collator, dropping=thins)
        callbacks.append(Epochs(thins))
    trainer = StreamingSFTTrainer(
        decisions=decisions,
        model=backbone.model,
        args=training_arguments(recipe),
        train_dataset=Dataset.from_dict({"pack": list(range(len(prepared.packs)))}),
        data_collator=lambda picks: thinned(prepared.items(pick["pack"] for pick in picks)),
        processing_class=backbone.tokenizer,
        callbacks=callbacks,
    )
    trainer.keep, trainer.data = recipe.keep_checkpoints, prepared.rows.digest
    trainer.remove_callback(PrinterCallback)  # the curve is in trainer_state.json; quiet when piped
    if recipe.data.validation is not None:
        held_out = prepare_data(recipe.data, recipe.data.validation, renderer, out / PREPARED_VALIDATION)
        size, last = recipe.optim.batch_size, len(held_out.packs)
        cuts = [range(i, min(i + size, last)) for i in range(0, last, size)]
        trainer.add_callback(HeldOut(trainer, lambda: (collator(held_out.items(cut)) for cut in cuts)))
    return trainer


def contract_of(recipe: SFTRecipe) -> Contract:
    """What inference must know of this training. PolicyError for a policy that the layout cannot have."""
    return Contract(
        base=recipe.model.path,
        fps=recipe.data.fps,
        thinks=recipe.data.thoughts != "drop",
        render=recipe.render,
        min_pixels=recipe.model.min_pixels,
        max_pixels=recipe.model.max_pixels,
        policy=recipe.policy,
    )


def run(recipe: SFTRecipe) -> Path:
    """Train, resuming from the last checkpoint in the output folder if there is one."""
    return attempt(
        recipe, lambda: build_trainer(recipe), lambda trainer: save_final(trainer, recipe, contract_of(recipe))
    )
