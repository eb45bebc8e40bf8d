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
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from train.losses import SFTLoss
from train.rows import Collator, DataError, Item, Rejected, Thoughts, load_items, pack
from train.stage import (
    Resumable,
    TrainRecipe,
    last_checkpoint,
    load_strictly,
    optimiser_arguments,
    prepare_model,
    prepare_wandb,
    ranks,
    save_final,
)
from whilst.checkpoint import Contract
from whilst.recipe import save_resolved
from whilst.render import IGNORE, RenderConfig, Renderer


@dataclass(frozen=True)
class DropSimilar:
    """TimeChat-Online's DTD (2504.17343, 3.2): of a frame, the visual tokens that equal those of the frame before at
    the same place are left out of the row; the rest keep their positions. by feature: those whose cosine is above
    `threshold`; by pixel: those whose mean absolute difference is below it. ratio: the share that goes instead, the
    most alike first. probability: how often a sample is thinned at all."""

    by: Literal["feature", "pixel"] = "feature"
    threshold: float | None = None
    ratio: float | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.ratio is None):
            raise ValueError("drop_similar: give threshold or ratio, one of them")
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise ValueError(f"drop_similar.ratio is a share from 0 to 1, not {self.ratio}")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"drop_similar.probability must lie from 0 to 1, not {self.probability}")


@dataclass(frozen=True)
class DataSettings:
    """Samples, as `whilst.sample.read_samples` takes them; several files are read one after the other, and one that is
    named twice counts twice. thoughts: drop them for arms that do not think, or put silence in their place.
    max_rejected: how many samples may be left out. The loss on `validation` is logged before the first step and after
    the last."""

    train: str | tuple[str, ...]
    validation: str | None = None
    fps: float = 2.0
    thoughts: Thoughts = "keep"
    limit: int | None = None
    pack_tokens: int | None = None
    max_rejected: int = 0
    drop_similar: DropSimilar | None = None


@dataclass(frozen=True)
class SFTRecipe(TrainRecipe):
    """One SFT stage."""

    data: DataSettings = field(kw_only=True)
    render: RenderConfig = field(kw_only=True, default=RenderConfig())
    loss: SFTLoss = field(kw_only=True, default=SFTLoss())


class StreamingSFTTrainer(SFTTrainer):
    """SFTTrainer whose batches carry loss weights. The loss is sum(w * nll) / sum(w) over the global batch, so how rows
    lie on ranks and micro-batches changes nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Qwen-VL classes say False; the Trainer would then divide our global mean by the accumulation steps once more
        self.model_accepts_loss_kwargs = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_strictly(self, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        total = sum((batch["loss_weight"][:, 1:].sum() for batch in batch_samples), torch.zeros(())).to(device)
        return self.accelerator.gather(total).sum() if self.args.average_tokens_across_devices else total

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"].roll(-1, 1)  # the row that predicts each token
        labels[:, -1] = IGNORE
        kept = (labels != IGNORE).flatten().nonzero()[:, 0]  # the LM head runs on these alone
        weights = inputs["loss_weight"].roll(-1, 1).flatten()[kept][None]
        outputs = model(
            **{k: v for k, v in inputs.items() if k not in ("loss_weight", "labels")},
            kept=kept,
            shift_labels=labels.flatten()[kept][None],
            fused_lm_head=True,
            use_cache=False,
        )
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -(outputs.log_probs * weights).sum() / total
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages the gradients over ranks
        mode = "train" if model.training else "eval"
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
        per_device_train_batch_size=recipe.optim.batch_size,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )


def prepare_data(
    data: DataSettings, path: str | Sequence[str], renderer: Renderer
) -> tuple[list[list[Item]], list[Rejected]]:
    """Packs of items of the samples at `path`, and what was rejected. Too many rejections are an error."""
    items: list[Item] = []
    rejected: list[Rejected] = []
    for one in (path,) if isinstance(path, str) else path:
        more, left_out = load_items(one, renderer, data.fps, thoughts=data.thoughts, limit=data.limit)
        items, rejected = items + more, rejected + left_out
    if len(rejected) > data.max_rejected:
        listed = "\n  ".join(f"{r.sample}: {r.reason}" for r in rejected[:5])
        raise DataError(
            f"{path}: {len(rejected)} samples cannot be used, data.max_rejected is {data.max_rejected}; first:"
            f"\n  {listed}"
        )
    if not items:
        raise DataError(f"{path}: no sample to train on")
    return ([[item] for item in items] if data.pack_tokens is None else pack(items, data.pack_tokens)), rejected


def build_trainer(recipe: SFTRecipe) -> StreamingSFTTrainer:
    """Everything a run needs, ready for .train()."""
    set_seed(recipe.seed)
    out = Path(recipe.output)
    out.mkdir(parents=True, exist_ok=True)
    save_resolved(recipe, out / "recipe.yaml")
    prepare_wandb(recipe)
    backbone = prepare_model(recipe.model)
    renderer = Renderer(backbone.tokenizer, backbone.spec, recipe.render)
    packs, rejected = prepare_data(recipe.data, recipe.data.train, renderer)
    (out / "rejected.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in rejected))
    collator = Collator(backbone.spec, renderer.rule, recipe.model.attention, backbone.tokenizer.pad_token_id)
    recipe = replace(recipe, optim=recipe.optim.at(ranks(), len(packs)))
    trainer = StreamingSFTTrainer(
        model=backbone.model,
        args=training_arguments(recipe),
        train_dataset=Dataset.from_dict({"pack": list(range(len(packs)))}),
        data_collator=lambda picks: collator([packs[pick["pack"]] for pick in picks]),
        processing_class=backbone.tokenizer,
        callbacks=[Resumable()],
    )
    trainer.remove_callback(PrinterCallback)  # the curve is in trainer_state.json; quiet when piped
    if recipe.data.validation is not None:
        held_out, _ = prepare_data(recipe.data, recipe.data.validation, renderer)
        size = recipe.optim.batch_size
        cuts = [held_out[i : i + size] for i in range(0, len(held_out), size)]
        trainer.add_callback(HeldOut(trainer, lambda: map(collator, cuts)))
    return trainer


def run(recipe: SFTRecipe) -> Path:
    """Train, resuming from the last checkpoint in the output folder if there is one."""
    trainer = build_trainer(recipe)
    checkpoint = last_checkpoint(recipe.output)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    contract = Contract(
        base=recipe.model.path,
        fps=recipe.data.fps,
        thinks=recipe.data.thoughts != "drop",
        render=recipe.render,
        min_pixels=recipe.model.min_pixels,
        max_pixels=recipe.model.max_pixels,
    )
    save_final(trainer, recipe, contract)
    trainer.accelerator.end_training()  # a process that exits with a live process group may abort while it is torn down
    return Path(recipe.output)
