"""Samplers: how a stream's next token is chosen from its scores. What is banned has a score of -inf or about -1e9."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

# (scores (B, V), active rows) -> one token a row; what it returns for a row that is not active is not used
Sampler = Callable[[torch.Tensor, Sequence[bool]], Sequence[int]]


def greedy(scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
    """The most likely token of each row."""
    tokens: list[int] = scores.argmax(-1).tolist()
    return tokens


def forced(texts: Sequence[Sequence[int] | None], boundary: int) -> Sampler:
    """Writes given token ids on each row, then the boundary token (teacher forcing, controls)."""
    rest = [iter([*ids, boundary]) if ids is not None else iter(()) for ids in texts]

    def sampler(scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
        return [next(ids) if wanted else boundary for ids, wanted in zip(rest, active, strict=True)]

    return sampler


class Sampling:
    """Draws from softmax(scores / temperature), each stream by its own generator, and keeps the log-probs.

    No top-k, top-p or penalty: the trainer's log-probs would then be those of another distribution.
    """

    def __init__(self, seeds: Sequence[tuple[int, ...]], temperature: float) -> None:
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.temperature = temperature
        self.taken: list[list[float]] = [[] for _ in seeds]

    def __call__(self, scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
        if self.temperature == 0:
            chosen = scores.argmax(-1)
            logprobs = torch.log_softmax(scores, -1)
        else:
            logprobs = torch.log_softmax(scores / self.temperature, -1)
            mass = logprobs.double().exp().cumsum(-1)
            drawn = [g.random() if wanted else 0.0 for g, wanted in zip(self.generators, active, strict=True)]
            # the first token whose cumulated mass exceeds the draw: a token without mass is never that one
            bar = torch.tensor(drawn, dtype=torch.float64, device=mass.device)[:, None] * mass[:, -1:]
            chosen = (mass <= bar).sum(-1).clamp(max=scores.shape[-1] - 1)
        numbers = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
        for b, wanted in enumerate(active):
            if wanted:
                self.taken[b].append(numbers[b])
        tokens: list[int] = chosen.tolist()
        return tokens

    def take(self, b: int) -> tuple[float, ...]:
        """The log-probs of stream b since they were last taken."""
        numbers, self.taken[b] = tuple(self.taken[b]), []
        return numbers
