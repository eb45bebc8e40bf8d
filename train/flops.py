"""Floating-point operations of a training step, as arithmetic; a multiplication with its addition counts two.

Matrix products and attention alone: they are what torch.utils.flop_counter counts, and tests/train/test_plan_memory.py
holds these formulas to it within 2%, on both families, full and LoRA, with and without gradient checkpointing.

- forward: 2 W a token for matrices of W weights; attention 4 L Q a token and layer for rows of L tokens and queries of
  width Q (scores and their use), as a dense mask computes it; half of it where the back-end skips what is not seen.
- backward: as much again for the gradient of the input (where anything before it is trained), and again for that of the
  weights (where they are trained); attention two and a half times its forward pass, whose scores it makes again.
- gradient checkpointing: the forward pass of each checkpointed layer once more, but for its last product, whose output
  the backward pass does not need.
- the head: logits of labelled tokens alone, made in the forward pass and once more in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.sizes import Batch, Decoder, Sizes, Tower

SKIPS = 0.5  # share of attention that causal back-ends (flash, flex) compute; a rule that hides more needs less


@dataclass(frozen=True)
class Flops:
    """Of one micro-batch. recomputed: the forward pass that checkpointing repeats."""

    forward: float
    backward: float
    recomputed: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.recomputed

    @property
    def model(self) -> float:
        """Without what is done twice: what MFU is counted in."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Work:
    """Updates and what they cost. steps: None where nobody can know yet. rollout: operations of one's rollouts."""

    ranks: int
    rows_a_step: float
    accumulation: int
    steps: int | None
    why_no_steps: str
    flops: Flops
    rollout: float
    gpu_hours: float | None

    @property
    def flops_a_step(self) -> float:
        return self.flops.total + self.rollout


def attention_flops(d: Decoder, tokens: float, length: float, backend: str) -> float:
    """Forward pass of one layer's attention over `tokens` queries and `length` keys each."""
    share = SKIPS if backend.startswith("flash") or backend == "whilst_flex" else 1.0
    return 4.0 * tokens * length * d.query * share


def tower_attention(t: Tower, patches: float, frame: float) -> float:
    """Forward pass of the attention of all blocks of the tower: within a pair of frames, and within windows of it."""
    windowed = (t.depth - t.full) * min(t.window, frame) if t.window else 0.0
    return 4.0 * patches * t.hidden * (t.full * frame + windowed)


def forward_flops(s: Sizes, tokens: float, length: float, patches: float, frame: float, logits: float) -> float:
    """A forward pass without gradients, such as a prefill or (tokens 1, length of the cache) a decoding step."""
    d, t = s.decoder, s.tower
    text = 2.0 * tokens * d.layers * d.layer_weights + d.layers * attention_flops(d, tokens, length, "whilst_sdpa")
    vision = 2.0 * patches * (t.patch * t.hidden + t.depth * t.block_weights) + tower_attention(t, patches, frame)
    vision += 2.0 * patches / t.merged * t.mergers * t.merger_weights
    return text + vision + 2.0 * logits * d.hidden * d.vocabulary


def tower_is_run_backwards(s: Sizes, checkpointing: bool) -> bool:
    """Whether the backward pass goes through the tower: where it is trained; and in Qwen2.5-VL with checkpointing also
    where it is frozen, since transformers then makes the output of its first layer require gradients."""
    return s.parts.trained_tower > 0 or (checkpointing and s.tower.gated)


def step_flops(s: Sizes, batch: Batch, *, backend: str, checkpointing: bool) -> Flops:
    """One micro-batch, forward and backward."""
    d, t, p = s.decoder, s.tower, s.parts
    full = p.trained_layers > p.lora
    towed, merged = p.trained_tower > 0, p.trained_tower > 0 or p.trained_merger > 0
    through = tower_is_run_backwards(s, checkpointing)
    # decoder
    matrices = 2.0 * batch.tokens * d.layer_weights
    attention = attention_flops(d, batch.tokens, batch.length, backend)
    lora = 2.0 * batch.tokens * p.lora / d.layers if p.lora else 0.0
    forward = d.layers * (matrices + attention + lora)
    backward = d.layers * (matrices * (2 if full else 1) + 2.5 * attention + 2 * lora)
    if not (merged or p.trained_embedding or checkpointing):  # the inputs of the first layer need no gradient
        backward -= 2.0 * batch.tokens * d.hidden * (d.query + 2 * d.key)
        backward -= 2.0 * batch.tokens * 3 * d.hidden * p.lora_rank
    last = 2.0 * batch.tokens * d.hidden * d.intermediate if full else 0.0
    recomputed = d.layers * (matrices + attention + lora - last) if checkpointing else 0.0
    # head
    logits = 2.0 * batch.learned * d.hidden * d.vocabulary
    forward += logits
    backward += logits * (3 if p.trained_head or (not p.head and p.trained_embedding) else 2)
    # tower
    seen = tower_attention(t, batch.patches, batch.frame)
    embed = 2.0 * batch.patches * t.patch * t.hidden
    blocks = 2.0 * batch.patches * t.depth * t.block_weights
    mergers = 2.0 * batch.patches / t.merged * t.mergers * t.merger_weights
    forward += embed + blocks + seen + mergers
    if merged or through:
        backward += mergers * (2 if merged else 1)
    if through:
        backward += (embed + 2 * blocks if towed else blocks) + 2.5 * seen
        if checkpointing:
            recomputed += blocks + seen - 2.0 * batch.patches * t.depth * t.hidden * t.intermediate
    return Flops(forward, backward, recomputed)
