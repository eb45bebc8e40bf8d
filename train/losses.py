"""Losses of SFT beyond the weighted cross-entropy: what a decision to speak or to stay silent weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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


@dataclass(frozen=True)
class SFTLoss:
    """Beyond the weights that rows carry (render.thought_weight, answer_weight, silence_weight, stream_weight)."""

    decision: DecisionLoss | None = None
