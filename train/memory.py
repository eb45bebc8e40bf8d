"""What a training step keeps in memory, as arithmetic: weights, gradients, optimiser, activations, buffers.

Every formula counts tensors that the step really keeps, found by reading the stock model's code and checked against the
allocator on the CPU (tests/train/test_plan_memory.py: within 15% in float32, both families, with and without gradient
checkpointing). On a GPU the same tensors are kept, but kernels, the allocator's rounding and NCCL's buffers are not
measured here: `RESERVE` stands for them.

Precision, by how a recipe trains (`precision_of`):

| | weights | gradients | AdamW | compute |
|---|---|---|---|---|
| float32 | 4 B | 4 B | 8 B | 4 B |
| autocast: bfloat16 with DDP | 4 B | 4 B | 8 B | 2 B; the stream of the decoder 4 B |
| fsdp: bfloat16 with FSDP2 | 4 B | 4 B | 8 B | 2 B |
| mixed: bfloat16 with DeepSpeed | 2 B | 4 B: summed in float32 | 12 B: a float32 copy and both moments | 2 B |

Frozen weights have neither gradients nor moments. Sharding over n ranks (ZeRO, arXiv 1910.02054, section 5, K = 12;
FSDP2 shards as stage 3 does): stage 2 divides gradients and optimiser by n, stage 3 weights too. Offload takes the
optimiser to the host; DeepSpeed's stage 3 offload takes weights along where its file says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from train.flops import tower_is_run_backwards
from train.sizes import Batch, Decoder, Parts, Sizes, Tower

Precision = Literal["float32", "autocast", "fsdp", "mixed"]
TILE = (4096, 32768)  # tokens and vocabulary entries of a tile of the fused head (TRL)
RESERVE = 1.5 * 2**30  # bytes of a GPU that no formula here accounts for: CUDA context, NCCL, fragments


@dataclass(frozen=True)
class Sharding:
    """How weights are spread. stage: 0 (DDP), 2 or 3; offload: what DeepSpeed keeps on the host."""

    name: str
    stage: int
    ranks: int
    offload_optimizer: bool = False
    offload_weights: bool = False


@dataclass(frozen=True)
class Held:
    """Bytes of one rank between two updates. `buckets`: DDP's copy of the gradients, or ZeRO's reduce buckets."""

    weights: float
    gradients: float
    optimiser: float
    buckets: float
    host: float  # of one rank, in the host's memory


@dataclass(frozen=True)
class Step:
    """Bytes of one rank in a step, beyond what is held. `saved`: kept from forward to backward; `peak`: the most at any
    time, gradients of this step included."""

    batch: float
    saved_text: float
    saved_vision: float
    head: float
    peak: float


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. other: the reference model, vLLM's share, the rollouts' caches, by name. gpu: of the GPU."""

    sharding: Sharding
    precision: Precision
    held: Held
    step: Step
    other: Mapping[str, float]
    total: float
    gpu: float | None

    @property
    def fits(self) -> bool | None:
        return None if self.gpu is None else self.total <= self.gpu


def held(parts: Parts, precision: Precision, sharding: Sharding) -> Held:
    """Weights, gradients and AdamW of one rank.

    With W parameters, T of them trained, n ranks, in float32 and under autocast: 4 W + 4 T + 8 T; in mixed precision
    2 W + 4 T + 12 T. Stage 2 divides the last two by n, stage 3 all three. DDP keeps a second copy of the gradients in
    its buckets where there are several ranks.
    """
    n = sharding.ranks
    w, g, o = (2, 4, 12) if precision == "mixed" else (4, 4, 8)
    weights, gradients, optimiser = float(w * parts.total), float(g * parts.trained), float(o * parts.trained)
    buckets = gradients if sharding.stage == 0 and n > 1 else 0.0
    if sharding.stage >= 2:
        gradients, optimiser = gradients / n, optimiser / n
    if sharding.stage == 3:
        weights /= n
    host = 0.0
    if sharding.offload_optimizer:
        host, optimiser = optimiser, 0.0
    if sharding.offload_weights:
        host, weights = host + weights, 0.0
    return Held(weights, gradients, optimiser, buckets, host)


def checkpoint_bytes(trained: int, saved: int, weight: int, zero: int) -> int:
    """Bytes of a checkpoint. trained: parameters; saved: those whose weights it holds (with adapters only these);
    weight: bytes of one in training; zero: DeepSpeed's stage, 0 without it.

    The weights, and two float32 moments of those that are trained; of DeepSpeed also their float32 copies, and below
    stage 3 the weights once more, in its own file (tests/train/test_sharding.py measures all of them).
    """
    if not zero:
        return weight * saved + 8 * trained
    return weight * saved * (2 if zero < 3 else 1) + 12 * trained


# --- activations ------------------------------------------------------------------------------------------------------


def _norm(width: int, precision: Precision, consumers: int, trained: bool, *, bf16_stream: bool = False) -> float:
    """Bytes a token that an RMSNorm and the matrices that read it keep.

    x in float32, which the norm needs; x normed, for the gradient of the norm's own weight; the norm's output, for the
    weights of the `consumers` that read it: under autocast each makes a bfloat16 copy of its own.
    """
    if precision == "float32":
        return width * (4 + 4 * trained + 4)
    if precision == "autocast":
        return width * (4 + (2 if bf16_stream else 4) * trained + 2 * consumers)
    return width * (4 + 2 * trained + 2)


def attention_bytes(d: Decoder, length: int, backend: str, compute: int) -> float:
    """Bytes a token that attention keeps in one layer: queries, keys, values, output and the log of its sums.

    Back-ends that take a mask repeat keys and values for all heads (transformers does so before SDPA). whilst_sdpa
    keeps its boolean mask as numbers, once a layer: `length` of them a token. eager keeps all probabilities.
    """
    if backend in ("whilst_sdpa", "eager"):
        shared = 4 * d.query * compute
        if backend == "whilst_sdpa":
            return shared + 4 * d.heads + length * compute
        return shared + d.heads * length * (4 + (compute if compute < 4 else 0))
    return (2 * d.query + 2 * d.key) * compute + 4 * d.heads


def layer_bytes(s: Sizes, length: int, backend: str, precision: Precision) -> float:
    """Bytes a token that one decoder layer keeps without checkpointing.

    Two norms; attention; the gated MLP: gate, its SiLU, up and their product. Qwen3-VL also norms queries and keys.
    """
    d, compute = s.decoder, 4 if precision == "float32" else 2
    trained = s.parts.trained_layers > s.parts.lora  # else the norms' own weights are frozen
    total = _norm(d.hidden, precision, 3, trained) + _norm(d.hidden, precision, 2, trained)
    total += attention_bytes(d, length, backend, compute) + 4 * d.intermediate * compute
    if d.qk_norm:
        total += (d.query + d.key) * (4 + compute * trained)
    if s.parts.lora:
        total += 7 * s.parts.lora_rank * compute
    return total


def block_bytes(t: Tower, precision: Precision) -> float:
    """Bytes a patch that one block of the tower keeps without checkpointing.

    Two norms; the output of the joint projection (values are a view of it), turned queries and keys, attention's output
    a segment and all of it; the MLP.
    """
    compute = 4 if precision == "float32" else 2
    if t.gated:
        norms = _norm(t.hidden, precision, 1, True, bf16_stream=True) + _norm(
            t.hidden, precision, 2, True, bf16_stream=True
        )
    else:
        norms = 2 * t.hidden * (4 + compute)
    return norms + 7 * t.hidden * compute + 4 * t.heads + (4 if t.gated else 2) * t.intermediate * compute


def merger_bytes(t: Tower, precision: Precision, trained: bool) -> float:
    """Bytes a patch that all mergers keep: normed input, hidden layer and its GELU; frozen, what norm and GELU need."""
    compute = 4 if precision == "float32" else 2
    if not trained:
        return t.mergers * t.hidden * (4 + compute)
    return t.mergers * t.hidden * (4 + (4 + compute if t.gated else compute) + 2 * compute)


def batch_bytes(s: Sizes, batch: Batch, backend: str) -> float:
    """Bytes of a collated batch: ids, labels, weights, positions, visual places; patches in float32; the dense mask."""
    mask = {"whilst_sdpa": 1, "eager": 4}.get(backend, 0) * batch.length
    return batch.tokens * (8 + 8 + 4 + 24 + 9 + mask) + 4.0 * batch.patches * s.tower.patch


def head_bytes(s: Sizes, learned: int, precision: Precision) -> float:
    """Bytes of the fused head while it runs: one tile of logits, whatever the vocabulary, the gradients of the hidden
    states; logits are made for labelled tokens alone."""
    compute = 4 if precision == "float32" else 2
    rows = min(learned, TILE[0])
    return rows * TILE[1] * compute + learned * s.decoder.hidden * (4 + compute)


def step_bytes(
    s: Sizes,
    batch: Batch,
    *,
    backend: str,
    precision: Precision,
    checkpointing: bool,
    accumulation: int = 1,
    sharding: Sharding | None = None,
) -> Step:
    """Bytes of a step beyond what is held (gradients, which a step makes, are counted here).

    The peak is the largest of these moments of the backward pass, as gradients grow while activations go:

    - the head: all activations, its tile, and its gradient;
    - the last decoder layer: all activations, the head's gradient, and the work of one layer;
    - the first decoder layer: the tower's activations, the gradients of the layers and the head, and the work of one;
    - the first vision block: the tower's activations, all gradients of the decoder, a second one of the embedding's
      size, and the work of one block. Where the tower is frozen: all gradients.

    The work of a decoder layer is 2 F + 2 D values a token; with checkpointing a layer keeps its input alone, and its
    activations are made again, one layer at a time. Accumulating, all gradients are there from the second micro-batch.
    """
    d, t, p = s.decoder, s.tower, s.parts
    compute = 4 if precision == "float32" else 2
    stream = 2 if precision in ("mixed", "fsdp") else 4
    towed = tower_is_run_backwards(s, checkpointing)
    merged = towed or p.trained_merger > 0
    layer = batch.tokens * layer_bytes(s, batch.length, backend, precision)
    block = batch.patches * block_bytes(t, precision)
    kept_layer = batch.tokens * d.hidden * stream if checkpointing else layer
    kept_block = batch.patches * t.hidden * compute if checkpointing else block
    ends = batch.tokens * d.hidden * 2 * stream + batch.learned * d.hidden * (stream + compute)  # final norm; labelled
    text = d.layers * kept_layer + ends
    vision = batch.patches * merger_bytes(t, precision, p.trained_merger > 0) if merged else 0.0
    if towed:
        vision += t.depth * kept_block
    features = batch.patches / t.merged * t.out * t.mergers * compute
    text += features
    text += _cast_weights(s, precision, checkpointing)

    gradient = 4
    shards = sharding.ranks if sharding is not None and sharding.stage >= 2 else 1
    of_head = gradient * (p.trained_head or (p.trained_embedding if not p.head else 0))
    of_text, of_all = gradient * p.trained_text / shards, gradient * p.trained / shards
    already = of_all if accumulation > 1 else 0.0  # and further gradients are made beside it, a matrix at a time
    inner = d.heads * batch.length * (4 / compute) if backend == "eager" else 0  # gradient of the probabilities
    work = batch.tokens * (max(2 * d.intermediate, inner) + 2 * d.hidden) * compute + (layer if checkpointing else 0.0)
    work += _gathered(s, precision, sharding)
    first = already or of_text - gradient * (p.trained_embedding + p.trained_layers / d.layers) / shards
    moments = [
        text + vision + already + of_head + head_bytes(s, batch.learned, precision),
        text + vision + already + of_head + work,
        first + vision + features + kept_layer + work,
        +vision + features + kept_layer + work,
        (already or of_text) + vision + gradient * p.trained_embedding,
        of_all,
    ]
    if towed:
        block_work = batch.patches * (2 * t.intermediate + 3 * t.hidden) * compute + (block if checkpointing else 0.0)
        moments.append((already or of_text) + vision + block_work)
    batches = (accumulation + 1) * batch_bytes(s, batch, backend)  # the loader holds the next one as well
    return Step(batches, text, vision, head_bytes(s, batch.learned, precision), batches + max(moments))


def _cast_weights(s: Sizes, precision: Precision, checkpointing: bool) -> float:
    """bfloat16 copies of the matrices, which autocast makes and the backward pass reads; with checkpointing they live
    to the end of the forward pass, which is where the peak is."""
    if precision != "autocast":
        return 0.0
    trained = s.parts.trained_layers > s.parts.lora
    if checkpointing and not trained:  # copies of frozen weights are not remembered
        return 0.0
    return 2.0 * s.decoder.layers * s.decoder.layer_weights


def _gathered(s: Sizes, precision: Precision, sharding: Sharding | None) -> float:
    """Stage 3: the weights of two decoder layers (one works, one is fetched) and of the head, gathered."""
    if sharding is None or sharding.stage < 3 or sharding.ranks == 1:
        return 0.0
    return 2.0 * (2 * s.decoder.layer_weights + s.parts.largest)
