"""Supervised fine-tuning on rendered rows: TRL's SFTTrainer with our mask, positions, loss weights and collator.

    whilst sft recipes/tiny/thinking.yaml                       # one process
    torchrun --nproc_per_node 8 -m whilst.cli sft RECIPE        # several

The run directory gets recipe.yaml (resolved), rejected.jsonl, checkpoints, the final model with `streaming.yaml` (what
StreamSession must know: layout, rule, scheme, turns), and trainer_state.json with the learning curve.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForImageTextToText, PrinterCallback, TrainerCallback, set_seed
from transformers.utils import cached_file
from trl import SFTConfig, SFTTrainer

from train.rows import Collator, DataError, Item, Rejected, Thoughts, load_items, pack
from whilst.backbones.base import Backbone, add_lora, freeze_vision, load
from whilst.checkpoint import CONTRACT, Contract
from whilst.recipe import Recipe, save_resolved
from whilst.render import IGNORE, RenderConfig, Renderer


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the language model; merged or adapter checkpoints are PEFT's."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


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
class DataSettings:
    """Samples, as `whilst.sample.read_samples` takes them. thoughts: drop them for arms that do not think, or put
    silence in their place. max_rejected: how many samples may be left out. The loss on `validation` is logged before
    the first step and after the last."""

    train: str
    validation: str | None = None
    fps: float = 2.0
    thoughts: Thoughts = "keep"
    limit: int | None = None
    pack_tokens: int | None = None
    max_rejected: int = 0


@dataclass(frozen=True)
class OptimSettings:
    """AdamW. batch_size is a device's; the global batch is batch_size * accumulation * ranks."""

    steps: int
    batch_size: int = 1
    accumulation: int = 1
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine", "decay_second_half"] = "cosine"
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    deepspeed: str | None = None


@dataclass(frozen=True)
class SFTRecipe(Recipe):
    """One SFT stage."""

    output: str = field(kw_only=True)
    model: ModelSettings = field(kw_only=True)
    data: DataSettings = field(kw_only=True)
    optim: OptimSettings = field(kw_only=True)
    render: RenderConfig = field(kw_only=True, default=RenderConfig())
    save_steps: int = field(kw_only=True, default=0)  # 0: only the final model
    log_steps: int = field(kw_only=True, default=10)
    report_to: tuple[str, ...] = field(kw_only=True, default=())


class StreamingSFTTrainer(SFTTrainer):
    """SFTTrainer whose batches carry loss weights. The loss is sum(w * nll) / sum(w) over the global batch, so how rows
    lie on ranks and micro-batches changes nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Qwen-VL classes say False; the Trainer would then divide our global mean by the accumulation steps once more
        self.model_accepts_loss_kwargs = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Strictly. The stock method matches names as they stand in the file, and Qwen2.5-VL saves its vision tower
        under other names than it has in memory: a resumed run would silently start from an untrained tower."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        target: Any = self.model
        saved = AutoModelForImageTextToText.from_pretrained(resume_from_checkpoint, dtype=target.dtype)
        target.load_state_dict(saved.state_dict(), strict=True)

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


COMPLETE = "complete"


class Resumable(TrainerCallback):
    """Marks a checkpoint when all of it is written, and keeps the W&B run of a resumed training the same."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = sys.modules["wandb"].run if "wandb" in sys.modules else None
        if run is not None and state.is_world_process_zero:
            Path(args.output_dir, "wandb_run_id").write_text(run.id)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            Path(args.output_dir, f"checkpoint-{state.global_step}", COMPLETE).touch()


class HeldOut(TrainerCallback):
    """Logs the loss on held-out batches before the first step and after the last."""

    def __init__(self, trainer: StreamingSFTTrainer, batches: Callable[[], Iterable[dict[str, torch.Tensor]]]) -> None:
        self.trainer, self.batches = trainer, batches

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.trainer.log(self.trainer.held_out(self.batches()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.log(self.trainer.held_out(self.batches()))


def last_checkpoint(output: str | Path) -> Path | None:
    """The newest complete checkpoint of a run; a torn one (killed while saving) is passed over, saying so."""
    steps = {int(p.name.split("-")[1]): p for p in Path(output).glob("checkpoint-*") if p.name.split("-")[1].isdigit()}
    for step in sorted(steps, reverse=True):
        if (steps[step] / COMPLETE).exists():
            return steps[step]
        print(f"{steps[step]}: not complete (killed while saving?), using an earlier checkpoint", file=sys.stderr)
    return None


def training_arguments(recipe: SFTRecipe) -> SFTConfig:
    """The TRL configuration of a recipe."""
    o = recipe.optim
    schedule: dict[str, Any] = {"lr_scheduler_type": o.schedule}
    if o.schedule == "decay_second_half":
        decay = o.steps // 2
        schedule = {
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": decay, "decay_type": "linear", "min_lr_ratio": 0.0},
        }
    return SFTConfig(
        output_dir=recipe.output,
        max_steps=o.steps,
        per_device_train_batch_size=o.batch_size,
        gradient_accumulation_steps=o.accumulation,
        learning_rate=o.learning_rate,
        weight_decay=o.weight_decay,
        warmup_steps=o.warmup_steps,
        max_grad_norm=o.max_grad_norm,
        gradient_checkpointing=o.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if o.gradient_checkpointing else None,
        deepspeed=o.deepspeed,
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
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,
        **schedule,
    )


def prepare_wandb(recipe: SFTRecipe) -> None:
    """Offline unless a key or a mode is set; a resumed run goes on under its id."""
    if "wandb" not in recipe.report_to:
        return
    if "WANDB_MODE" not in os.environ and "WANDB_API_KEY" not in os.environ:
        os.environ["WANDB_MODE"] = "offline"
    os.environ.setdefault("WANDB_DIR", recipe.output)
    saved = Path(recipe.output, "wandb_run_id")
    if saved.exists():
        os.environ["WANDB_RUN_ID"], os.environ["WANDB_RESUME"] = saved.read_text(), "allow"


def prepare_data(data: DataSettings, path: str, renderer: Renderer) -> tuple[list[list[Item]], list[Rejected]]:
    """Packs of items of the samples at `path`, and what was rejected. Too many rejections are an error."""
    items, rejected = load_items(path, renderer, data.fps, thoughts=data.thoughts, limit=data.limit)
    if len(rejected) > data.max_rejected:
        listed = "\n  ".join(f"{r.sample}: {r.reason}" for r in rejected[:5])
        raise DataError(
            f"{path}: {len(rejected)} samples cannot be used, data.max_rejected is {data.max_rejected}; first:"
            f"\n  {listed}"
        )
    if not items:
        raise DataError(f"{path}: no sample to train on")
    return ([[item] for item in items] if data.pack_tokens is None else pack(items, data.pack_tokens)), rejected


def prepare_model(settings: ModelSettings) -> Backbone:
    """Load, freeze and wrap the checkpoint as the recipe says."""
    backbone = load(
        settings.path,
        backend=settings.attention,
        dtype=torch.float32,  # master weights; bfloat16 recipes compute under autocast
        device="cuda" if torch.cuda.is_available() else "cpu",
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )
    freeze_vision(backbone, settings.freeze_vision)
    if settings.lora is not None:
        lora = settings.lora
        add_lora(backbone, lora.rank, lora.alpha, lora.dropout, lora.targets)
    return backbone


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


def save_final(trainer: StreamingSFTTrainer, recipe: SFTRecipe) -> None:
    """The trained model as an ordinary HF folder, with the base's processor files and the streaming contract."""
    out = Path(recipe.output)
    trainer.save_model(str(out))
    if not trainer.is_world_process_zero():
        return
    trainer.state.save_to_json(str(out / "trainer_state.json"))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja"):
        file = cached_file(recipe.model.path, name, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            shutil.copy(file, out / name)
    contract = Contract(
        base=recipe.model.path,
        fps=recipe.data.fps,
        thinks=recipe.data.thoughts != "drop",
        render=recipe.render,
        min_pixels=recipe.model.min_pixels,
        max_pixels=recipe.model.max_pixels,
    )
    save_resolved(contract, out / CONTRACT)


def run(recipe: SFTRecipe) -> Path:
    """Train, resuming from the last checkpoint in the output folder if there is one."""
    trainer = build_trainer(recipe)
    checkpoint = last_checkpoint(recipe.output)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_final(trainer, recipe)
    trainer.accelerator.end_training()  # a process that exits with a live process group may abort while it is torn down
    return Path(recipe.output)
