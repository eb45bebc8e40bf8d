"""Losses of SFT beyond the weighted cross-entropy: what a decision to speak or to stay silent weighs.

A decision is the first token of a generated turn whose whole text is one of `loss.decision.words`; "" is silence, whose
first token is the boundary token. With p the probability of that token, w the weight it has in its row and a_c that of
its class, it adds w a_c (1 - p)^focal (-log p) to the loss; every other token adds w (-log p), as ever. The gradient
goes through (1 - p)^focal as well (focal loss, arXiv 1708.02002). The sum is divided by the sum of the w of the whole
update, which knows nothing of classes and probabilities (Streamo divides by the number of labels).

Counts over the whole update make the loss independent of how rows lie on ranks and micro-batches. Streamo's released
code counts each micro-batch by itself (`swift/plugin/loss.py`), where at batch size 1 a class can only be weighed
against what its own row holds; `counts: micro_batch` repeats that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from whilst.render import IGNORE, Renderer


class LossError(ValueError):
    """A loss that cannot be computed as the recipe says; names the key and the fix."""


@dataclass(frozen=True)
class DecisionLoss:
    """Weights of the first token of a generated turn whose text is one of `words`; "" is silence, the boundary token.

    A decision of class c with probability p weighs a_c (1 - p)^focal. balance: a_c is 1 (none), the mean count over c's
    (inverse: sum of counts / count_c / classes present; Streamo), or (1 - beta) / (1 - beta^count_c), scaled to mean 1
    over the decisions (effective: StreamPro). counts: over the whole update, all ranks and micro-batches of it; over
    all training data; or over each micro-batch, as Streamo's released code does.
    """

    words: tuple[str, ...]
    focal: float = 0.0
    balance: Literal["none", "inverse", "effective"] = "none"
    counts: Literal["update", "data", "micro_batch"] = "update"
    beta: float = 0.999

    def __post_init__(self) -> None:
        if not self.words or len(set(self.words)) != len(self.words):
            raise LossError(f"loss.decision.words must be different words, at least one, not {list(self.words)}")
        if self.focal != 0.0 and not self.focal >= 1.0:
            raise LossError(f"loss.decision.focal must be 0 or at least 1 (below, its slope has no end), {self.focal}")
        if not 0.0 <= self.beta < 1.0:
            raise LossError(f"loss.decision.beta must lie from 0 to 1, 1 excluded, not {self.beta}")


@dataclass(frozen=True)
class SFTLoss:
    """Beyond the weights that rows carry (render.thought_weight, answer_weight, silence_weight, stream_weight)."""

    decision: DecisionLoss | None = None


def class_weights(settings: DecisionLoss, counts: torch.Tensor) -> torch.Tensor:
    """a_c (C,) of classes with these counts (C,), float64; 0 for a class that is not there.

    Worked: counts 6, 2, 0. inverse: 8 / 6 / 2 = 2/3 and 8 / 2 / 2 = 2. Their mean over the 8 decisions is 1.
    """
    n = counts.double()
    here = n > 0
    if settings.balance == "none" or not here.any():
        return here.double()
    if settings.balance == "inverse":
        return torch.where(here, n.sum() / n.clamp(min=1) / here.sum(), 0.0)
    effective = torch.where(here, (1 - settings.beta) / (1 - settings.beta ** n.clamp(min=1)), 0.0)
    return effective * n.sum() / (effective * n).sum()


class Decisions:
    """The decision loss of one run: finds decisions among labels and weighs them."""

    def __init__(self, settings: DecisionLoss, renderer: Renderer) -> None:
        """Raises LossError where two words begin with the same token, so that it cannot tell them apart, or where
        silence is no turn."""
        if renderer.implicit:
            raise LossError("loss.decision weighs the first token of turns: set render.silence: turn")
        self.settings, self.renderer, self.boundary = settings, renderer, renderer.boundary
        self.ids = [(*renderer.encode(word), renderer.boundary) for word in settings.words]
        firsts = [ids[0] for ids in self.ids]
        for i, first in enumerate(firsts):
            if firsts.index(first) != i:
                a, b = settings.words[firsts.index(first)], settings.words[i]
                raise LossError(
                    f"loss.decision.words: {a!r} and {b!r} begin with the same token, so that one token does not "
                    f"decide between them: choose words whose first tokens differ"
                )
        self.of_data: torch.Tensor | None = None  # counts (C,) over all training rows
        self.of_update: torch.Tensor | None = None  # counts (C,) over the update that is under way

    @property
    def names(self) -> list[str]:
        """What the classes are called in logs."""
        return [word or "silence" for word in self.settings.words]

    def classes(self, labels: torch.Tensor) -> torch.Tensor:
        """(B, L) int64: at the label of a decision its class, elsewhere -1. A learned turn begins where the label
        before it is none, or a boundary token."""
        before = torch.nn.functional.pad(labels, (1, 0), value=IGNORE)[:, :-1]
        begins = (labels != IGNORE) & ((before == IGNORE) | (before == self.boundary))
        longest = max(map(len, self.ids))
        ahead = torch.nn.functional.pad(labels, (0, longest), value=IGNORE).unfold(1, longest, 1)[:, : labels.shape[1]]
        found = torch.full_like(labels, -1)
        for c, ids in enumerate(self.ids):
            same = (ahead[..., : len(ids)] == torch.tensor(ids, device=labels.device)).all(-1)
            found[begins & same] = c
        return found

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """Decisions of each class (C,) int64 among labels (B, L). The first label of a row is never learned."""
        found = self.classes(labels)[:, 1:]
        return torch.bincount(found[found >= 0], minlength=len(self.ids))

    def count_data(self, rows: Iterable[torch.Tensor]) -> None:
        """Count over all training rows, labels (L,) each. LossError where there is no decision among them."""
        counts = torch.zeros(len(self.ids), dtype=torch.int64)
        for labels in rows:
            counts += self.count(labels[None])
        self.take_data(counts)

    def take_data(self, counts: torch.Tensor) -> None:
        """Counts (C,) over all training rows. LossError as `count_data`."""
        if not counts.any():
            raise LossError(
                f"loss.decision.words {list(self.settings.words)}: no turn of data.train is any of them; write them as "
                f"the samples do"
            )
        self.of_data = counts

    def factors(self, classes: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        """a_c (1 - p)^focal (N,) of labels of these classes (N,) whose tokens have log_probs (N,); 1 where there is no
        decision. Differentiable in log_probs."""
        settings, decides = self.settings, classes >= 0
        counts = {
            "update": self.of_update,
            "data": self.of_data,
            "micro_batch": torch.bincount(classes[decides], minlength=len(self.ids)),
        }[settings.counts]
        if counts is None:
            raise LossError(f"loss.decision.counts: {settings.counts}: nothing was counted yet")
        weight = class_weights(settings, counts.to(log_probs.device)).to(log_probs.dtype)[classes.clamp(min=0)]
        if settings.focal:
            weight = weight * (-torch.expm1(log_probs)).clamp(min=0.0) ** settings.focal
        return torch.where(decides, weight, torch.ones_like(log_probs))

    def recalls(self, classes: torch.Tensor, right: torch.Tensor) -> Mapping[str, float]:
        """Of each class that is there, the share of its decisions whose token is the likeliest: over-silence and
        over-firing have equal accuracy, and are told apart here."""
        return {
            f"recall_{name}": right[classes == c].float().mean().item()
            for c, name in enumerate(self.names)
            if bool((classes == c).any())
        }


def total_count(decisions: Decisions, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Decisions of each class (C,) in some batches."""
    return torch.stack([decisions.count(batch["labels"]) for batch in batches]).sum(0)
