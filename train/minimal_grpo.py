"""GRPO over video episodes, to be read from top to bottom: the algorithm of train/grpo.py without TRL or a Trainer.

    python -m train.minimal_grpo runs/demo/lazy_sft runs/demo/lazy_samples/data/train --steps 3

One process on the CPU, one forward over all rows a pass. With the same seed its episodes are those of `whilst grpo`,
and so are its gradients (tests/train/test_minimal_grpo.py). What it leaves out: guards against a rollout that disagrees
with the trainer, resuming, dynamic sampling, perturbed rollouts, micro-batches, adapters, several devices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rewards.base import Scene
from rewards.mix import RewardMix, RewardTerm
from train.collate import Collator
from train.episodes import Judged, TurnRow, advantages, has_spread, turn_rows
from train.policies import Limits, StreamPolicy, Task
from train.pool import SamplePool
from train.rows import Item
from whilst.backbones.base import Backbone, ban_vision_tokens, freeze_vision
from whilst.checkpoint import Checkpoint, load_checkpoint
from whilst.clips import segment_clips
from whilst.episode import polls
from whilst.render import IGNORE, Renderer
from whilst.sample import Sample, read_samples


@dataclass(frozen=True)
class Settings:
    """groups: samples a step. rollouts: episodes of each (G). passes: AdamW steps a generation (mu). beta: of the KL.

    clip_low, clip_high: ratios of probabilities are clipped to 1 - low to 1 + high.
    """

    steps: int = 3
    groups: int = 8
    rollouts: int = 8
    thought_tokens: int = 8
    answer_tokens: int = 4
    temperature: float = 1.0
    rewards: tuple[RewardTerm, ...] = (RewardTerm("accuracy"),)
    loss: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    clip_low: float = 0.2
    clip_high: float = 0.28
    beta: float = 0.0
    passes: int = 1
    learning_rate: float = 4e-4
    max_grad_norm: float = 1.0
    seed: int = 0


# 1. Each sample is watched G times by the model as it is: a thought after every segment, a reply to every query.


def make_tasks(samples: Sequence[Sample], picks: Sequence[int], number: int, fps: float, s: Settings) -> list[Task]:
    """The episodes to be made in generation `number`, G of each sample side by side."""
    clips = {
        index: tuple(segment_clips(samples[index], fps)) for index in picks
    }  # shared, so that frames are encoded once
    return [Task(samples[i], clips[i], (s.seed, number, i, r), rollout=r) for i in picks for r in range(s.rollouts)]


def play(policy: StreamPolicy, tasks: Sequence[Task], s: Settings) -> list[list[Judged]]:
    """Groups of episodes. One score is for all that an episode did, and its group's mean is what it is measured by:
    there is no value network."""
    policy.sync()
    episodes = policy.rollout(tasks, Limits(s.thought_tokens, s.answer_tokens, s.temperature))
    mix = RewardMix(s.rewards)
    groups = []
    for start in range(0, len(tasks), s.rollouts):
        group = tuple(episodes[start : start + s.rollouts])
        scores = [mix.score(episode, Scene(group)) for episode in group]
        signal = advantages([score.total for score in scores], "mean")
        clips = tasks[start].clips
        groups.append([Judged(e, score, a, clips) for e, score, a in zip(group, scores, signal, strict=True)])
    return groups


# 2. Episodes become rows that hold the very tokens that were sampled, each in the context it was sampled in.


@dataclass(frozen=True)
class Tokens:
    """The N sampled tokens of some rows, in their order: the log-prob of each when it was sampled, the advantage of its
    episode, and its weight in the loss; (N,) each."""

    old: torch.Tensor
    advantage: torch.Tensor
    weight: torch.Tensor


def rows_of(groups: Sequence[Sequence[Judged]], renderer: Renderer) -> list[TurnRow]:
    """The rows of the groups whose scores differ; where all are equal there is nothing to learn."""
    kept = [group for group in groups if has_spread([one.mixed.total for one in group])]
    return [row for group in kept for one in group for row in turn_rows(one, renderer)]


def tokens_of(rows: Sequence[TurnRow], most: int, s: Settings) -> Tokens:
    """What the loss must know of every sampled token. most: tokens that an episode can have."""
    sampled = [(one, t, p) for row in rows if (one := row.judged) for t, p in zip(row.turns, row.places, strict=True)]
    episodes = len({id(one) for one, _, _ in sampled})
    weight = {
        "dapo": lambda one: 1 / len(sampled),  # every token alike
        "grpo": lambda one: 1 / (episodes * one.episode.tokens),  # every episode alike, however long it is
        "dr_grpo": lambda one: 1 / (episodes * most),  # every token alike, in every batch
    }[s.loss]
    return Tokens(
        old=torch.tensor([one.episode.turns[t].logprobs[p] for one, t, p in sampled]),
        advantage=torch.tensor([one.advantage for one, _, _ in sampled]),
        weight=torch.tensor([weight(one) for one, _, _ in sampled]),
    )


def most_tokens(samples: Sequence[Sample], s: Settings) -> int:
    """The most tokens that an episode of any of these samples can have, if it thinks."""
    return max(len(x.segments()) * s.thought_tokens + sum(map(len, polls(x))) * s.answer_tokens for x in samples)


# 3. One forward gives every sampled token its log-prob under the model as it is now.


Collate = Callable[[Sequence[Sequence[Item]]], dict[str, Any]]


def log_probs(backbone: Backbone, rows: Sequence[TurnRow], collator: Collate, temperature: float) -> torch.Tensor:
    """(N,) under the distribution that was sampled from: softmax(logits / temperature), vision tokens banned."""
    batch = collator([[row.item] for row in rows])
    del batch["loss_weight"]
    following = batch.pop("labels")[:, 1:]
    sampled = following != IGNORE
    hidden = backbone.core(**batch).last_hidden_state[:, :-1][sampled]
    logits = backbone.logits(hidden) / temperature
    return logits.log_softmax(-1).gather(-1, following[sampled][:, None])[:, 0]


# 4. Tokens of episodes above their group's mean become likelier, those of the others less likely.


def objective(now: torch.Tensor, tokens: Tokens, reference: torch.Tensor | None, s: Settings) -> torch.Tensor:
    """PPO's clipped loss (a token that has moved far enough gets no gradient) and the KL to the reference, k3."""
    ratio = (now - tokens.old).exp()
    clipped = ratio.clamp(1 - s.clip_low, 1 + s.clip_high)
    loss = -torch.min(ratio * tokens.advantage, clipped * tokens.advantage)
    if reference is not None:
        loss = loss + s.beta * ((reference - now).exp() - (reference - now) - 1)
    return (loss * tokens.weight).sum()


# 5. All of it, in a loop.


def prepare(path: str) -> tuple[Checkpoint, StreamPolicy, Collator]:
    """A checkpoint with its vision frozen, as a policy, and what puts its rows into a batch."""
    checkpoint = load_checkpoint(path)
    backbone, renderer = checkpoint.backbone, checkpoint.renderer
    ban_vision_tokens(backbone.model, backbone.banned)
    freeze_vision(backbone, "tower+merger")
    policy = StreamPolicy(backbone, renderer, thinks=checkpoint.contract.thinks)
    collator = Collator(backbone.spec, renderer.rule, backbone.backend, backbone.tokenizer.pad_token_id)
    collator.encoded = lambda clips: [view.features for view in policy.store.views(clips)]  # as the rollouts had them
    return checkpoint, policy, collator


def train(path: str, samples: Sequence[Sample], s: Settings) -> Backbone:
    """Train the checkpoint in folder `path` and return the model."""
    checkpoint, policy, collator = prepare(path)
    reference = prepare(path)[0].backbone if s.beta else None
    backbone, pool = checkpoint.backbone, SamplePool(samples, s.seed)
    trained = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, s.learning_rate, weight_decay=0.0)
    for number in range(s.steps):
        picks = pool.groups(number, rank=0, ranks=1, count=s.groups)
        groups = play(policy, make_tasks(samples, picks, number, checkpoint.contract.fps, s), s)
        scores = [one.mixed.total for group in groups for one in group]
        rows = rows_of(groups, checkpoint.renderer)
        print(f"step {number}: reward {sum(scores) / len(scores):.3f}, {len(rows)} rows", flush=True)
        if not rows:
            continue
        tokens = tokens_of(rows, most_tokens(samples, s), s)
        with torch.no_grad():
            first = log_probs(reference, rows, collator, s.temperature) if reference else None
        for _ in range(s.passes):
            loss = objective(log_probs(backbone, rows, collator, s.temperature), tokens, first, s)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, s.max_grad_norm)
            optimizer.step()
    return backbone


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.minimal_grpo", description="GRPO over episodes, without TRL")
    parser.add_argument("checkpoint", help="a folder that whilst sft wrote")
    parser.add_argument("samples", help="samples: a file or a folder of shards")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--groups", type=int, default=8, help="samples a step")
    parser.add_argument("--rollouts", type=int, default=8, help="episodes of each")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    train(given.pop("checkpoint"), read_samples(given.pop("samples")), Settings(**given))


if __name__ == "__main__":
    main()
