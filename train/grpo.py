"""GRPO over multi-turn video episodes: TRL's GRPOTrainer with episodes for completions.

    whilst grpo recipes/tiny/grpo.yaml                          # one process
    torchrun --nproc_per_node 8 -m whilst.cli grpo RECIPE       # several; DeepSpeed by optim.deepspeed

Starts from a folder that `whilst sft` wrote: its streaming contract says layout, rule, scheme and whether it thinks.
The run directory gets what sft writes, and rejected.jsonl, episodes/ (tables and pages of full episodes) and, if
training stops because rollout and trainer disagree, the row on which they do.

What of TRL is overridden stands in EpisodeGRPOTrainer alone; tests/train/test_trl_contract.py holds the signatures that
it relies on. TRL computes the loss: it sees one row a turn, whose mask carries the weight of each token.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, set_seed
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import prepare_deepspeed, unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head

from rewards.mix import RewardMix, RewardTerm
from train.difficulty import Difficulty, keep_by_difficulty, measure, read_difficulty, write_difficulty
from train.episode_tables import EpisodeRow, combine, log_to_wandb, metrics, write_page, write_table
from train.episodes import (
    Judged,
    LossType,
    Roles,
    TurnRow,
    Weighing,
    blank_row,
    collate_turns,
    pad_turns,
    split_rows,
    turn_rows,
)
from train.policies import Limits, Policy, StreamPolicy, ViewStore
from train.pool import ClipStore, Curriculum, SamplePool
from train.rollouts import Generation, Rollouts, RolloutSettings
from train.rows import Collator
from train.stage import (
    Resumable,
    TrainRecipe,
    last_checkpoint,
    load_strictly,
    optimiser_arguments,
    prepare_model,
    prepare_wandb,
    save_final,
)
from train.vllm_policy import VLLMSettings, check_installed, check_servable, connect
from whilst.backbones.base import Backbone, Features, ban_vision_tokens
from whilst.checkpoint import Contract, read_contract
from whilst.clips import SegmentClip
from whilst.episode import polls
from whilst.recipe import save_resolved
from whilst.render import RenderConfig, Renderer
from whilst.sample import JSON, Sample, read_samples

COUNTED = ("groups", "equal_groups", "resampled_groups", "rejected_groups")  # metrics groups/<name>, of all ranks


class GRPOError(ValueError):
    """A run that cannot go on: settings that contradict each other, a rank that failed, a loss that is not finite."""


class RolloutGapError(GRPOError):
    """Rollout and trainer give the same tokens different log-probs: what is trained is not what was sampled from."""


@dataclass(frozen=True)
class EpisodeData:
    """Samples to roll out, as `whilst.sample.read_samples` takes them; their thoughts are not read. max_rejected: how
    many samples may turn out to be unusable. difficulty: leaves out what the first policy always or never does."""

    train: str
    limit: int | None = None
    max_rejected: int = 0
    curriculum: Curriculum = field(default_factory=Curriculum)
    difficulty: Difficulty | None = None


@dataclass(frozen=True)
class LossSettings:
    """The objective.

    clip_low, clip_high: the ratio is clipped to 1 - low to 1 + high (DAPO: higher above; for cispo, clip_high is the
    cap of the ratio itself). beta: weight of the KL estimate k3 to the first checkpoint. updates: optimiser steps a
    generation; iterations: passes over it (mu). importance: token_truncate multiplies each token by
    min(trainer / rollout probability, importance_cap). max_gap, max_mean_gap: training stops where log-probs of rollout
    and trainer differ by more, on one token or on average over a micro-batch.
    """

    type: LossType = "dapo"
    advantage: Literal["mean", "mean_std"] = "mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    beta: float = 0.0
    roles: Roles = ("thought", "answer")
    cut_off: Literal["train", "mask"] = "train"
    updates: int = 1
    iterations: int = 1
    importance: Literal["off", "token_truncate"] = "off"
    importance_cap: float = 2.0
    max_gap: float = 1.0
    max_mean_gap: float = 0.05

    def __post_init__(self) -> None:
        if self.updates < 1 or self.iterations < 1:
            raise ValueError("loss.updates and loss.iterations must be at least 1")
        if not self.roles:
            raise ValueError("loss.roles is empty: nothing would be trained; give thought, answer or both")

    @property
    def needs_old(self) -> bool:
        """Whether log-probs under the rollout's weights are computed apart (else the loss's own pass gives them)."""
        return self.updates > 1 or self.iterations > 1 or self.importance != "off"


Context = Literal["recurrent", "recurrent_packed", "in_context"]


@dataclass(frozen=True)
class GRPORecipe(TrainRecipe):
    """One GRPO stage. context: how turns become rows; None takes the checkpoint's own layout. log_episodes: full
    episodes that each logged step writes to tables."""

    data: EpisodeData = field(kw_only=True)
    rollout: RolloutSettings = field(kw_only=True)
    rewards: tuple[RewardTerm, ...] = field(kw_only=True)
    loss: LossSettings = field(kw_only=True, default=LossSettings())
    context: Context | None = field(kw_only=True, default=None)
    policy: Literal["transformers", "vllm"] = field(kw_only=True, default="transformers")
    vllm: VLLMSettings = field(kw_only=True, default_factory=VLLMSettings)
    log_episodes: int = field(kw_only=True, default=8)


def render_config(contract: Contract, context: Context | None) -> RenderConfig:
    """The checkpoint's rendering under a context mode. GRPOError where it cannot be read that way."""
    render = contract.render
    recurrent = render.layout.startswith("recurrent")
    if context is None or (context == "in_context" and not recurrent) or context == render.layout:
        return render
    if context != "in_context" and recurrent:  # the same turns, exactly
        rule = "text_memory" if context == "recurrent_packed" else "causal"
        return replace(render, layout=context, rule=rule, rule_params={})
    raise GRPOError(
        f"context {context!r}: the checkpoint was trained with layout {render.layout!r}; text memory and KV memory are "
        f"two different models. Leave `context` out, or start from a checkpoint of that kind"
    )


class EpisodeGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose completions are the turns of episodes. Overridden: where batches come from
    (get_train_dataloader, _prepare_inputs), the forward (_get_per_token_logps_and_entropies), guards around the loss
    (_compute_loss, _get_grad_norm), what is logged (log) and checkpoints (_save_checkpoint, _load_from_checkpoint)."""

    args: GRPOConfig

    def __init__(
        self,
        *,
        recipe: GRPORecipe,
        backbone: Backbone,
        renderer: Renderer,
        collator: Collator,
        rollouts: Rollouts,
        weighing: Weighing,
        blank: TurnRow,
        views: ViewStore,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=backbone.model,
            reward_funcs=_scored_by_rollouts,
            args=grpo_arguments(recipe),
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            processing_class=backbone.tokenizer,
            **kwargs,
        )
        self.recipe, self.backbone, self.renderer = recipe, backbone, renderer
        self.collator, self.rollouts, self.weighing, self.blank = collator, rollouts, weighing, blank
        self.views = views
        self.beta = recipe.loss.beta  # upstream would load a stock model for it, without our forward
        self._reference = self._frozen_copy() if self.beta and not isinstance(self.model, PeftModel) else None
        self._inputs: dict[str, Any] = {}
        self._logps = torch.zeros(0)
        self._resume: Path | None = None
        self._shown: list[Judged] = []  # episodes for the next tables
        self._gaps: dict[tuple[str, int], float] = {}  # largest gap by sample and rollout
        self._buffered_inputs: Any = None
        self.per_generation = recipe.optim.accumulation * recipe.loss.updates  # micro-batches

    # --- batches ----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Only counts micro-batches: episodes come from the pool, by the number of the generation."""
        count = self.args.max_steps * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        return self.accelerator.prepare(DataLoader(range(count), batch_size=1, collate_fn=list))  # type: ignore[arg-type]

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        self._resume = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        if self._resume is not None:
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
            self._buffered_inputs = self._load_buffer(self._resume)
            self._resume = None
        every = self.per_generation * self.num_iterations
        if self._step % every == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._new_batches(self._step // every)
        return Trainer._prepare_inputs(self, self._buffered_inputs[self._step % self.per_generation])

    def _new_batches(self, number: int) -> list[dict[str, Any]]:
        """The micro-batches of a generation, equally many on every rank, with equally many turns."""
        accelerator = self.accelerator
        own = isinstance(self.rollouts.policy, StreamPolicy)  # vLLM has weights of its own, and gathers ours itself
        with self._on_all_ranks(), self._whole_model() if own else nullcontext():
            made = self.rollouts.generation(number, accelerator.process_index, accelerator.num_processes)
        with self._on_all_ranks(), self._whole_model():  # a rank that failed above must not be waited for here
            batches, norms = self._batches(made)
        self.views.clear()
        turns = self._highest([len(batch["completion_mask"]) for batch in batches])
        norms = accelerator.reduce(torch.tensor(norms, device=accelerator.device), reduction="sum").tolist()
        for i, batch in enumerate(batches):
            pad_turns(batch, turns[i])
            # upstream spreads its count over a generation's updates; ours is this update's own
            norm = norms[i // self.args.gradient_accumulation_steps] * self.recipe.loss.updates
            batch["num_items_in_batch"] = torch.tensor(norm)
        self._score_under_fixed_weights(batches)
        self._note(made, number)
        return batches

    def _batches(self, made: Generation) -> tuple[list[dict[str, Any]], list[float]]:
        """Micro-batches, and the local divisor of each update's loss. A group lies in one update."""
        batches, norms = [], []
        for window in np.array_split(np.arange(len(made.groups)), self.recipe.loss.updates):
            judged = [one for g in window for one in made.groups[g] if self.weighing.tokens(one.episode)]
            rows = [row for one in judged for row in turn_rows(one, self.renderer)]
            norms.append(self.weighing.norm([one.episode for one in judged]))
            for part in split_rows(rows, self.args.gradient_accumulation_steps):
                shown = part if any(row.item.clips for row in part) else [*part, self.blank]
                batches.append(collate_turns(shown, self.collator, self.weighing))
        return batches, norms

    def _score_under_fixed_weights(self, batches: Sequence[dict[str, Any]]) -> None:
        """Log-probs under the rollout's weights and under the reference, where the loss needs them."""
        loss = self.recipe.loss
        for batch in batches:
            if loss.needs_old:
                old = self._logps_of(self.model_wrapped, batch)
                batch["old_per_token_logps"] = old
                self._check_gap(old, batch)
                if loss.importance == "token_truncate":
                    ratio = (old - batch["sampling_logps"]).exp().clamp(max=loss.importance_cap)
                    batch["advantages"] = batch["advantages"] * ratio
            if self.beta:
                batch["ref_per_token_logps"] = self._reference_logps(batch)

    # --- the model --------------------------------------------------------------------------------------------------

    @contextmanager
    def _whole_model(self) -> Iterator[None]:
        """Rollouts call the bare model, under ZeRO-3 with its weights gathered, at the precision of training."""
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator, gather_deepspeed3_params=True),
            self.accelerator.autocast(),
        ):
            yield

    def _frozen_copy(self) -> Any:
        """The first checkpoint once more, as the reference of the KL term."""
        reference = prepare_model(replace(self.recipe.model, lora=None))
        ban_vision_tokens(reference.model, reference.banned)
        add_fused_lm_head(reference.model, temperature=self.temperature)
        reference.model.requires_grad_(False)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(reference.model, self.accelerator)
        return self.accelerator.prepare_model(reference.model, evaluation_mode=True)

    def _reference_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        if self._reference is not None:
            return self._logps_of(self._reference, batch)
        with self.accelerator.unwrap_model(self.model).disable_adapter():
            return self._logps_of(self.model_wrapped, batch)

    @torch.no_grad()
    def _logps_of(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        self._inputs = Trainer._prepare_inputs(self, batch)
        logps, _, _ = self._get_per_token_logps_and_entropies(model, None, None, 0)
        return logps.cpu()

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probs and entropies (n, T) of the turns of the current micro-batch: one forward over its rows."""
        forward = self._inputs["forward"]
        if "pixel_values_videos" not in forward and "visual_features" not in forward:
            raise GRPOError("a log-prob pass without visuals: the trained model would not see what the rollout saw")
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            _mark_available(self.accelerator.unwrap_model(model))
        with self.accelerator.autocast():
            outputs = model(**forward, fused_lm_head=True, use_cache=False)
        shape, slots = self._inputs["completion_mask"].shape, self._inputs["slots"]

        def per_turn(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(shape.numel()).index_copy(0, slots, values[0]).view(shape)

        logps = per_turn(outputs.log_probs)
        self._logps = logps.detach()
        return logps, per_turn(outputs.entropy) if compute_entropy else None, None

    # --- the loss and its guards ------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._inputs = inputs
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        if self._highest([int(not torch.isfinite(loss))])[0]:
            self._not_finite("the loss", inputs, self._logps)
        if "old_per_token_logps" not in inputs:  # these weights are the rollout's
            self._check_gap(self._logps, inputs)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called right before the optimiser's step; the same on all ranks."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(norm):
            raise GRPOError(
                f"step {self.state.global_step}: the gradient's norm is {float(norm)}; the step was not taken. Go on "
                f"from an earlier checkpoint with a lower learning rate or smaller rewards"
            )
        return norm

    def _not_finite(self, what: str, batch: dict[str, Any], logps: torch.Tensor) -> None:
        self._dump(batch, logps, "loss.json")
        raise GRPOError(
            f"step {self.state.global_step}: {what} is not finite on some rank; the turn is in rank*-loss.json of the "
            f"run's folder, and nothing was updated from it. If grad_norm rose before, go back to an earlier "
            f"checkpoint with a lower learning rate or optim.max_grad_norm"
        )

    def _check_gap(self, logps: torch.Tensor, batch: dict[str, Any]) -> None:
        """Log |rollout - trainer| log-probs; stop every rank where they differ too much on one."""
        sampled = batch["sampled"].to(logps.device)
        apart = (logps - batch["sampling_logps"].to(logps.device)).abs().nan_to_num(nan=float("inf")) * sampled
        for (sample, rollout, _), value in zip(batch["names"], apart.max(-1).values.tolist(), strict=False):
            self._gaps[sample, rollout] = max(value, self._gaps.get((sample, rollout), 0.0))
        gap = apart[sampled]
        highest, mean = (gap.max().item(), gap.mean().item()) if gap.numel() else (0.0, 0.0)
        highest, mean = self._highest([highest, mean])
        self._metrics["train"]["rollout_gap/max"].append(highest)
        self._metrics["train"]["rollout_gap/mean"].append(mean)
        if not math.isfinite(highest):
            self._not_finite("a log-prob of rollout or trainer", batch, logps)
        loss = self.recipe.loss
        if highest > loss.max_gap or mean > loss.max_mean_gap:
            self._dump(batch, logps, "gap.json")
            raise RolloutGapError(
                f"step {self.state.global_step}: log-probs of rollout and trainer differ by {highest:.3g} on a token "
                f"and {mean:.3g} on average (loss.max_gap {loss.max_gap:g}, loss.max_mean_gap {loss.max_mean_gap:g}); "
                f"the worst turn is in *gap.json of the run's folder. Training would follow another model than the one "
                f"that was sampled from: check precision, policy and rendering before raising the limits"
            )

    def _dump(self, batch: dict[str, Any], logps: torch.Tensor, name: str) -> None:
        """The turn of a micro-batch on which rollout and trainer differ most, for a look at it."""
        gap = (logps - batch["sampling_logps"].to(logps.device)).abs().nan_to_num(nan=float("inf"))
        worst = int(gap.masked_fill(~batch["sampled"].to(logps.device), -1.0).max(-1).values.argmax())
        own = (batch["slots"] // gap.shape[1] == worst).nonzero()[:, 0]
        sample, rollout, turn = batch["names"][min(worst, len(batch["names"]) - 1)]
        ids = batch["forward"]["shift_labels"][0, own].tolist()
        record = {
            "step": self.state.global_step,
            "sample": sample,
            "rollout": rollout,
            "turn": turn,
            "text": self.backbone.tokenizer.decode(ids),
            "ids": ids,
            "rollout_logps": batch["sampling_logps"][worst, : len(ids)].tolist(),
            "trainer_logps": logps[worst, : len(ids)].tolist(),
            "row": batch["forward"]["input_ids"].flatten()[: batch["forward"]["input_ids"].shape[1]].tolist(),
        }
        file = Path(self.recipe.output, f"rank{self.accelerator.process_index}-{name}")
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _highest(self, values: Sequence[float]) -> list[Any]:
        """The highest of each value over all ranks."""
        own = torch.tensor([values], dtype=torch.float64, device=self.accelerator.device)
        found = self.accelerator.gather(own).max(0).values.tolist()
        return [int(value) for value in found] if all(isinstance(value, int) for value in values) else found

    @contextmanager
    def _on_all_ranks(self) -> Iterator[None]:
        """What a rank does alone: if one fails, all stop, instead of waiting for it for ever."""
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        told = gather_object([f"{type(failed).__name__}: {failed}" if failed else ""])
        if failed is not None:
            raise failed
        for rank, message in enumerate(told):
            if message:
                raise GRPOError(f"rank {rank} failed: {message}")

    # --- what is logged ---------------------------------------------------------------------------------------------

    def _note(self, made: Generation, number: int) -> None:
        """Metrics of all ranks' episodes; some of this rank's are kept for the next tables."""
        judged = made.judged
        tally = metrics([one.episode for one in judged], [one.mixed for one in judged])
        told = gather_object([(tally, made.counts)])
        counts: Counter[str] = sum((counts for _, counts in told), Counter())
        figures = combine(tally for tally, _ in told).means()
        figures |= {f"groups/{name}": float(counts[name]) for name in COUNTED}
        for name, value in figures.items():
            self._metrics["train"][name].append(value)
        self._shown = judged[: self.recipe.log_episodes]
        self._gaps = {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if self._shown and self.accelerator.is_main_process:
            rows = [
                EpisodeRow(
                    self.state.global_step,
                    i // self.recipe.rollout.rollouts,
                    one.episode,
                    one.mixed,
                    one.advantage,
                    self._gaps.get((one.episode.sample.id, one.episode.rollout)),
                )
                for i, one in enumerate(self._shown)
            ]
            write_table(rows, Path(self.recipe.output))
            write_page(rows, [one.clips for one in self._shown], Path(self.recipe.output))
            if "wandb" in self.recipe.report_to:
                log_to_wandb(rows)
        self._shown = []

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_strictly(self, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Also the micro-batches that are still to be trained on, where a checkpoint falls into a generation."""
        Trainer._save_checkpoint(self, model, trial)
        if self._step % (self.per_generation * self.num_iterations) and self._buffered_inputs is not None:
            file = self._buffer_file(Path(self.recipe.output, f"checkpoint-{self.state.global_step}"))
            torch.save(self._buffered_inputs, file)
        self.accelerator.wait_for_everyone()  # the mark of completeness comes next, and counts for all ranks

    def _load_buffer(self, checkpoint: Path) -> list[dict[str, Any]] | None:
        """What a checkpoint inside a generation keeps of it. GRPOError where this rank's part is missing."""
        if self._step % (self.per_generation * self.num_iterations) == 0:
            return None
        with self._on_all_ranks():
            file = self._buffer_file(checkpoint)
            if not file.exists():
                raise GRPOError(f"{file} is missing: a checkpoint inside a generation is resumed on as many ranks")
            batches: list[dict[str, Any]] = torch.load(file, map_location="cpu", weights_only=True)
        return batches

    def _buffer_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"rollouts-{self.accelerator.process_index}-of-{self.accelerator.num_processes}.pt"


def _scored_by_rollouts(**columns: Any) -> Any:
    """Upstream asks for a reward function; episodes are scored where they are made."""
    raise GRPOError("upstream's rewards were called: batches must come from _new_batches")


def _mark_available(model: Any) -> None:
    """The ban of vision tokens is no ZeRO-3 parameter; the fused head asks each of its tensors for its state."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    bias: Any = base.get_output_embeddings().bias
    bias.ds_status = ZeroParamStatus.AVAILABLE


def grpo_arguments(recipe: GRPORecipe) -> GRPOConfig:
    """The TRL configuration of a recipe. TRL's batch sizes only have to divide: batches are ours."""
    loss, rollout = recipe.loss, recipe.rollout
    return GRPOConfig(
        **optimiser_arguments(recipe),
        per_device_train_batch_size=rollout.rollouts,
        num_generations=rollout.rollouts,
        steps_per_generation=recipe.optim.accumulation * loss.updates,
        num_iterations=loss.iterations,
        temperature=rollout.temperature,
        # dapo divides a masked sum by a number that we give, so that any weighing of tokens is a mask and a number
        loss_type="cispo" if loss.type == "cispo" else "dapo",
        importance_sampling_level="sequence" if loss.type == "gspo" else "token",
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        delta=loss.dual_clip,
        beta=0.0,
        use_bias_correction_kl=False,
        max_completion_length=max(rollout.thought_tokens, rollout.answer_tokens),
    )


def most_tokens(samples: Sequence[Sample], rollout: RolloutSettings, thinks: bool) -> int:
    """The most tokens that an episode of any of these samples can have."""
    longest = 1
    for sample in samples:
        thoughts = len(sample.segments()) * rollout.thought_tokens if thinks else 0
        longest = max(longest, thoughts + sum(len(due) for due in polls(sample)) * rollout.answer_tokens)
    return longest


def check(recipe: GRPORecipe, contract: Contract, render: RenderConfig) -> None:
    """GRPOError where settings contradict each other."""
    if recipe.optim.batch_size != 1:
        raise GRPOError(
            "optim.batch_size: episodes are cut into optim.accumulation micro-batches an update; leave it out"
        )
    if recipe.model.lora is not None and recipe.model.lora.dropout:
        raise GRPOError("model.lora.dropout must be 0: the trainer's log-probs would not be those of the rollout")
    if (render.memory_tokens or 1 << 30) < recipe.rollout.thought_tokens:
        raise GRPOError(
            f"rollout.thought_tokens {recipe.rollout.thought_tokens} exceeds the text memory's cap, "
            f"render.memory_tokens {render.memory_tokens}: such a thought could not be kept"
        )
    every = recipe.loss.updates * recipe.loss.iterations
    if recipe.model.attention == "whilst_flex" and recipe.save_steps % every:
        raise GRPOError(f"save_steps must be a multiple of {every} with whilst_flex: its masks cannot be saved")
    if not contract.thinks and recipe.loss.roles == ("thought",):
        raise GRPOError("loss.roles: the checkpoint does not think, so there is no thought to train")


def neither_easy_nor_hard(
    recipe: GRPORecipe, samples: Sequence[Sample], policy: Policy, store: ClipStore, mix: RewardMix
) -> list[Sample]:
    """The samples that data.difficulty keeps. Ranks share the rollouts; a resumed run reads them."""
    settings, out = recipe.data.difficulty, Path(recipe.output)
    assert settings is not None
    state, file = PartialState(), out / "difficulty.jsonl"
    made_with: dict[str, JSON] = {"checkpoint": recipe.model.path, "seed": recipe.seed, "reward": mix.terms[0].called}
    if not file.exists():
        limits = Limits(recipe.rollout.thought_tokens, recipe.rollout.answer_tokens, recipe.rollout.temperature)
        own = samples[state.process_index :: state.num_processes]
        found = measure(own, policy, store, mix, settings, limits, recipe.seed)
        success = {name: values for part in gather_object([found]) for name, values in part.items()}
        if state.is_main_process:
            write_difficulty(file, samples, success, settings, made_with)
        state.wait_for_everyone()
    kept, rejected = keep_by_difficulty(read_difficulty(file, samples, settings, made_with), settings)
    if state.is_main_process:
        (out / "too_easy_or_hard.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in rejected))
    if not kept:
        raise GRPOError(f"data.difficulty: none of {len(samples)} samples is kept; widen low and high ({file})")
    return [sample for sample in samples if sample.id in set(kept)]


def build_trainer(recipe: GRPORecipe) -> EpisodeGRPOTrainer:
    """Everything a run needs, ready for .train()."""
    set_seed(recipe.seed)
    contract = read_contract(recipe.model.path)
    render = render_config(contract, recipe.context)
    check(recipe, contract, render)
    if recipe.policy == "vllm":
        check_installed()
    out = Path(recipe.output)
    out.mkdir(parents=True, exist_ok=True)
    save_resolved(recipe, out / "recipe.yaml")
    prepare_wandb(recipe)
    backbone = prepare_model(recipe.model)
    ban_vision_tokens(backbone.model, backbone.banned)
    renderer = Renderer(backbone.tokenizer, backbone.spec, render)
    if recipe.policy == "vllm":
        check_servable(renderer)
    samples = read_samples(recipe.data.train)[: recipe.data.limit]
    views = ViewStore(backbone)
    policy = StreamPolicy(backbone, renderer, thinks=contract.thinks, batch=recipe.rollout.batch, store=views)
    store = ClipStore(contract.fps, recipe.rollout.keep_megabytes)
    mix = RewardMix(recipe.rewards)
    if recipe.data.difficulty is not None:
        samples = neither_easy_nor_hard(recipe, samples, policy, store, mix)
    rollouts = Rollouts(
        samples,
        SamplePool(samples, recipe.seed, recipe.data.curriculum),
        store,
        policy,
        mix,
        recipe.rollout,
        advantage=recipe.loss.advantage,
        seed=recipe.seed,
        max_rejected=recipe.data.max_rejected,
        rejected_file=out / "rejected.jsonl",
    )
    encoded = None
    if recipe.model.freeze_vision == "tower+merger":  # features that the rollout made once serve the trainer too

        def encoded(clips: Sequence[SegmentClip]) -> list[Features]:
            return [view.features for view in views.views(clips)]

    collator = Collator(
        backbone.spec, renderer.rule, recipe.model.attention, backbone.tokenizer.pad_token_id, encoded=encoded
    )
    loss = recipe.loss
    weighing = Weighing(loss.type, loss.roles, loss.cut_off, most_tokens(samples, recipe.rollout, contract.thinks))
    trainer = EpisodeGRPOTrainer(
        recipe=recipe,
        backbone=backbone,
        renderer=renderer,
        collator=collator,
        rollouts=rollouts,
        weighing=weighing,
        blank=blank_row(renderer, contract.fps),
        views=views,
        callbacks=[Resumable()],
    )
    trainer.remove_callback(PrinterCallback)
    if recipe.policy == "vllm":
        rollouts.policy = connect(backbone, renderer, recipe.vllm, trainer.accelerator, thinks=contract.thinks)
    return trainer


def run(recipe: GRPORecipe) -> Path:
    """Train, resuming from the last checkpoint in the output folder if there is one."""
    trainer = build_trainer(recipe)
    checkpoint = last_checkpoint(recipe.output)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    contract = read_contract(recipe.model.path)
    save_final(trainer, recipe, replace(contract, base=recipe.model.path, render=trainer.renderer.config))
    trainer.accelerator.end_training()
    return Path(recipe.output)
