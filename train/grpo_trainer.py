"""EpisodeGRPOTrainer: TRL's GRPOTrainer whose completions are the turns of episodes.

All that is overridden of TRL stands in this file; tests/train/test_trl_contract.py holds the signatures that it relies
on. TRL computes the loss: it sees one row a turn, whose mask carries the weight of each token.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import prepare_deepspeed, unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head

from train.checkpoints import WholeCheckpoints
from train.collate import Collator
from train.episode_tables import EpisodeRow, combine, log_to_wandb, metrics, write_page, write_table
from train.episodes import (
    Judged,
    TurnRow,
    Weighing,
    collate_turns,
    pad_turns,
    split_rows,
    turn_rows,
)
from train.grpo_recipe import GRPOError, GRPORecipe, grpo_arguments
from train.policies import StreamPolicy, ViewStore
from train.rollouts import Generation, Rollouts
from train.sharding import keep_positions_exact
from train.stage import prepare_model
from train.stopping import Interrupted, interruptible
from train.together import any_rank, together
from whilst.backbones.base import Backbone, ban_vision_tokens
from whilst.render import Renderer

COUNTED = ("groups", "equal_groups", "resampled_groups", "rejected_groups")  # metrics groups/<name>, of all ranks


class RolloutGapError(GRPOError):
    """Rollout and trainer give the same tokens different log-probs: what is trained is not what was sampled from."""


class EpisodeGRPOTrainer(WholeCheckpoints, GRPOTrainer):
    """GRPOTrainer whose completions are the turns of episodes. Overridden: where batches come from
    (get_train_dataloader, _prepare_inputs), the forward (_get_per_token_logps_and_entropies), guards around the loss
    (_compute_loss, _get_grad_norm), what is logged (log) and what stands in checkpoints (save_beside)."""

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
        self.choose: Callable[[], None] | None = None  # settles which samples there are, before the first generation
        self.per_generation = recipe.optim.accumulation * recipe.loss.updates  # micro-batches

    # --- batches ----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Only counts micro-batches: episodes come from the pool, by the number of the generation."""
        count = self.args.max_steps * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        return self.accelerator.prepare(DataLoader(range(count), batch_size=1, collate_fn=list))  # type: ignore[arg-type]

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        self._resume = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if self._resume is not None:
            self.rollouts.remember_rejected()
        elif self.accelerator.is_main_process:
            self.rollouts.rejected_file.write_text("")
        self.accelerator.wait_for_everyone()
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
        if self.choose is not None:
            self._choose(self.choose)
        own = isinstance(self.rollouts.policy, StreamPolicy)  # vLLM has weights of its own, and gathers ours itself
        made = None
        with together(GRPOError), self._whole_model() if own else nullcontext(), interruptible(), suppress(Interrupted):
            made = self.rollouts.generation(number, accelerator.process_index, accelerator.num_processes)
        if any_rank(made is None):  # a generation follows from its number: the next attempt makes the same one
            self.save_and_stop()
        assert made is not None, "save_and_stop raises"
        with together(GRPOError), self._whole_model():  # a rank that failed above must not be waited for here
            batches, norms = self._batches(made)
        self.views.clear()
        self._gaps = {}
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

    def _choose(self, choose: Callable[[], None]) -> None:
        """Settle which samples there are. Here, since ZeRO-3 has the whole model from now on alone."""
        stopped = False
        with together(GRPOError), self._whole_model():
            try:
                choose()
            except Interrupted:  # on all ranks
                stopped = True
        if stopped:
            self.save_and_stop()
        self.choose = None

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
        reference = prepare_model(replace(self.recipe.model, lora=None))  # as self.args say that models are spread
        keep_positions_exact(reference.model)
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
        tokens, kept = batch["forward"]["input_ids"], batch["forward"]["kept"]
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
            "row": tokens[int(kept[own[0]]) // tokens.shape[1]].tolist(),  # all of it, with its padding
        }
        file = Path(self.recipe.output, f"rank{self.accelerator.process_index}-{name}")
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _highest(self, values: Sequence[float]) -> list[Any]:
        """The highest of each value over all ranks."""
        own = torch.tensor([values], dtype=torch.float64, device=self.accelerator.device)
        found = self.accelerator.gather(own).max(0).values.tolist()
        return [int(value) for value in found] if all(isinstance(value, int) for value in values) else found

    # --- what is logged ---------------------------------------------------------------------------------------------

    def _note(self, made: Generation, number: int) -> None:
        """Metrics of all ranks' episodes; some of this rank's are kept for the next tables."""
        judged = made.judged
        tally = metrics([one.episode for one in judged], [one.mixed for one in judged])
        told = gather_object([(tally, made.counts, self.rollouts.rejected)])
        self.rollouts.check_rejected({name: one for _, _, rejected in told for name, one in rejected.items()})
        counts: Counter[str] = sum((counts for _, counts, _ in told), Counter())
        figures = combine(tally for tally, _, _ in told).means()
        figures |= {f"groups/{name}": float(counts[name]) for name in COUNTED}
        for name, value in figures.items():
            self._metrics["train"][name].append(value)
        self._shown = judged[: self.recipe.log_episodes]

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

    @property
    def batch(self) -> int:
        """Groups that a generation takes over all ranks."""
        groups = self.recipe.rollout.groups
        assert groups is not None, "a rank's share by now: RolloutSettings.at"
        return groups * self.accelerator.num_processes

    def save_beside(self, folder: Path) -> None:
        """The micro-batches that are still to be trained on, where a checkpoint falls into a generation."""
        if self._step % (self.per_generation * self.num_iterations) and self._buffered_inputs is not None:
            torch.save(self._buffered_inputs, self._buffer_file(folder))

    def _load_buffer(self, checkpoint: Path) -> list[dict[str, Any]] | None:
        """What a checkpoint inside a generation keeps of it. GRPOError where this rank's part is missing."""
        if self._step % (self.per_generation * self.num_iterations) == 0:
            return None
        with together(GRPOError):
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
