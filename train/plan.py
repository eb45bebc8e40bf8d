"""What a training recipe would do, before anything runs: parameters, rows, memory, steps, operations, hours, warnings.

    whilst plan recipes/vst/sft_7b.yaml --samples 100000         # no GPU, no network, no weights
    whilst plan RECIPE launch.nodes=2 --json plan.json

The model is built on the meta device from its configuration, or from the published one of a Hub checkpoint that is not
here (whilst/backbones/published.py). Formulas and how they are checked: train/memory.py, train/flops.py, docs/PLAN.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from train.flops import Flops, Work, forward_flops, step_flops
from train.grpo_recipe import GRPORecipe, contract_of, render_config
from train.memory import RESERVE, Held, Memory, Precision, Sharding, batch_bytes, held, step_bytes
from train.plan_rows import Nominal, Rows, first_rows
from train.plan_stop import Stops, stops_of
from train.plan_warnings import warnings_of
from train.rows import Limits, Thoughts
from train.sft import SFTRecipe
from train.sharding import deepspeed_config
from train.sizes import Batch, Sizes, decoder_of, parts_of, tower_of
from train.stage import ModelSettings, OptimSettings, TrainRecipe
from whilst.attention import BACKENDS, check_backend
from whilst.backbones import FAMILIES
from whilst.backbones.base import Backbone, BackboneError, VisionSpec, add_lora, freeze_vision
from whilst.backbones.published import config_of, preprocessor_of
from whilst.checkpoint import Contract
from whilst.sample import read_samples, samples_exist
from whilst.visibility import Rule, VisibilityError

GIB = 2**30

# memory (GiB) and dense bfloat16 tensor operations a second, from the vendor's data sheets
GPUS: dict[str, tuple[int, float]] = {
    "a100-40gb": (40, 312e12),
    "a100-80gb": (80, 312e12),
    "h100-80gb": (80, 989e12),
    "h800-80gb": (80, 989e12),
    "h20-96gb": (96, 148e12),
    "a6000-48gb": (48, 154.8e12),
    "4090-24gb": (24, 165.2e12),
}


class PlanError(ValueError):
    """A recipe that cannot be planned; says what is missing and how to go on."""


@dataclass(frozen=True)
class Options:
    """What the command line adds. samples: how many the data will have, where it is not here. mfu: the share of the
    GPU's peak that is reached; hours are in proportion to it."""

    samples: int | None = None
    mfu: float = 0.35
    nominal: Nominal = field(default_factory=Nominal)

    def __post_init__(self) -> None:
        if not 0.0 < self.mfu <= 1.0:
            raise PlanError(f"--mfu is a share of the peak, above 0 and at most 1, not {self.mfu}")
        if self.samples is not None and self.samples < 1:
            raise PlanError(f"--samples must be at least 1, not {self.samples}")


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; `vision` counts the tower with its merger, `trainable` after freezing and LoRA."""

    total: int
    vision: int
    trainable: int

    @property
    def frozen(self) -> int:
        return self.total - self.trainable


@dataclass(frozen=True)
class Rollout:
    """A generation of all ranks: episodes, their turns, tokens read (prefilled) and at most written. waiting: most
    bytes of a rank's share that wait in the host's memory to be trained on; rows that show the same frames share them
    within a micro-batch."""

    episodes: int
    turns: int
    prefilled: float
    generated: float
    kv_a_stream: float  # bytes of the longest context
    updates: int
    waiting: float = 0.0


@dataclass(frozen=True)
class Plan:
    """`masks`: how each attention back-end takes the recipe's rule. Bytes, tokens and operations; see the parts."""

    model: str
    parameters: Parameters
    masks: dict[str, str]
    rows: Rows
    memory: Memory
    work: Work
    rollout: Rollout | None
    stops: Stops
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """A checkpoint that is still to be trained: the checkpoint under it that sizes are read of, and its contract."""

    path: str
    contract: Contract | None


def plan(recipe: SFTRecipe | GRPORecipe, options: Options = Options(), start: Start | None = None) -> Plan:
    """Plan a recipe. start: what its checkpoint will be, where an earlier recipe is still to write it.

    Raises:
        VisibilityError, PositionError, RenderError: layout, rule, scheme and back-end do not fit together.
        BackboneError: the checkpoint has no adapter here, or neither it nor a published configuration is known.
        StageError, PlanError: settings that contradict each other.
    """
    path = start.path if start is not None else recipe.model.path
    if isinstance(recipe, GRPORecipe):
        contract = start.contract if start is not None and start.contract is not None else contract_of(recipe)
        render, fps = render_config(contract, recipe.context), contract.fps
        thoughts: Thoughts = "keep" if contract.thinks else "drop"
        paths, limit = [recipe.data.train], recipe.data.limit
        ramp = recipe.data.curriculum.frames
        limits, dropping = Limits(None if ramp is None else int(max(ramp.start, ramp.end))), None
    else:
        render, fps, thoughts, limit = recipe.render, recipe.data.fps, recipe.data.thoughts, recipe.data.limit
        paths = [recipe.data.train] if isinstance(recipe.data.train, str) else list(recipe.data.train)
        limits, dropping = recipe.data.limits, recipe.data.drop_similar
    nominal = options.nominal
    if render.layout.startswith("recurrent") and thoughts == "drop":  # it sees one segment, so this is the whole video
        nominal = replace(nominal, segment=nominal.seconds)
    rule = render.check()
    check_backend(recipe.model.attention, rule)
    sizes = sizes_of(recipe.model, path)
    spec = spec_of(recipe.model, path)
    rows = first_rows(
        paths,
        path,
        spec,
        render,
        fps=fps,
        thoughts=thoughts,
        limit=limit,
        nominal=nominal,
        limits=limits,
        dropping=dropping,
        rollout=recipe.rollout if isinstance(recipe, GRPORecipe) else None,
    )
    count = _samples(paths, limit, options)
    made = _of_grpo(recipe, sizes, rows, count) if isinstance(recipe, GRPORecipe) else None
    batch, mean = _batches(recipe, rows, made)
    if made is not None:
        of_rank = rows.a_sample * made.episodes / recipe.launch.ranks
        made = replace(made, waiting=of_rank * batch_bytes(sizes, mean, recipe.model.attention))
    memory = _memory(recipe, sizes, batch, made)
    work = _work(recipe, sizes, rows, mean, made, count, options)
    parts = sizes.parts
    generation = (made.updates, math.ceil(made.episodes / work.ranks)) if made is not None else (1, 0)
    rate = GPUS[recipe.launch.gpu][1] * options.mfu * work.ranks if memory.gpu is not None else None
    stops = stops_of(recipe, sizes, memory.sharding, memory.precision, work, generation, rate)
    return Plan(
        model=path,
        parameters=Parameters(parts.total, parts.vision, parts.trained),
        masks={name: mask_of(name, rule) for name in BACKENDS},
        rows=rows,
        memory=memory,
        work=work,
        rollout=made,
        stops=stops,
        warnings=tuple(warnings_of(recipe, sizes, rows, memory, work, stops, render, spec)),
    )


def count_parameters(settings: ModelSettings) -> Parameters:
    """Parameters of the checkpoint as the recipe trains it, from its configuration alone."""
    parts = sizes_of(settings, settings.path).parts
    return Parameters(parts.total, parts.vision, parts.trained)


def sizes_of(settings: ModelSettings, path: str) -> Sizes:
    """Sizes of the checkpoint at `path`, frozen and wrapped as the settings say."""
    config: Any = config_of(path)
    if config.model_type not in FAMILIES:
        raise BackboneError(f"{path}: model type {config.model_type!r} has no adapter; known: {', '.join(FAMILIES)}")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        backbone = Backbone(model, None, spec_of(settings, path), FAMILIES[config.model_type])
        freeze_vision(backbone, settings.freeze_vision)
        if settings.lora is not None:
            lora = settings.lora
            add_lora(backbone, lora.rank, lora.alpha, lora.dropout, lora.targets, lora.full)
    return Sizes(decoder_of(config), tower_of(config), parts_of(backbone))


def spec_of(settings: ModelSettings, path: str) -> VisionSpec:
    """The constants of a checkpoint that need not be here."""
    config: Any = config_of(path)
    spec = FAMILIES[config.model_type].spec(config, preprocessor_of(path))
    return replace(
        spec,
        min_pixels=spec.min_pixels if settings.min_pixels is None else settings.min_pixels,
        max_pixels=spec.max_pixels if settings.max_pixels is None else settings.max_pixels,
    )


def mask_of(backend: str, rule: Rule) -> str:
    """How a back-end takes `rule`, here."""
    try:
        check_backend(backend, rule)
    except VisibilityError as error:
        return f"refuses: {error}"
    cuda = torch.cuda.is_available()
    if backend.startswith("flash"):
        return "no mask needed" if cuda else "no mask needed; needs a CUDA device, which this machine has not"
    if backend == "whilst_flex":
        return "BlockMask" if cuda else "BlockMask; forward alone on this machine: no backward pass on CPU"
    return "dense mask, memory grows with the square of the row"


# --- rows, memory, work -----------------------------------------------------------------------------------------------


def _samples(paths: list[str], limit: int | None, options: Options) -> int | None:
    if options.samples is not None:
        return options.samples
    if not all(samples_exist(path) for path in paths):
        return None
    return sum(len(read_samples(path)[:limit]) for path in paths)


def _batches(recipe: TrainRecipe, rows: Rows, made: Rollout | None) -> tuple[Batch, Batch]:
    """A micro-batch of the longest rows seen, for memory; and one row of the mean length, for operations. Memory
    is that of whole rows: they are there until similar tokens are left out, and not every sample is thinned."""
    count = max(1, len(rows.lengths))
    mean = Batch(
        1,
        round(rows.tokens * rows.thinned / count),
        round(rows.learned / count),
        round(rows.patches / count),
        rows.frame,
    )
    longest = max(rows.lengths, default=0)
    packed = recipe.data.pack_tokens if isinstance(recipe, SFTRecipe) else None
    if packed is not None and rows.tokens:
        share = packed / rows.tokens
        pack = Batch(1, packed, round(rows.learned * share), round(rows.patches * share), rows.frame)
        return replace(
            pack,
            rows=recipe.optim.batch_size,
            learned=pack.learned * recipe.optim.batch_size,
            patches=pack.patches * recipe.optim.batch_size,
        ), replace(pack, length=round(packed * rows.thinned))
    n = recipe.optim.batch_size
    if made is not None:  # a rank's rows of an update, cut into micro-batches of about equally many tokens
        turns_to_rows = rows.a_sample * made.episodes / recipe.launch.ranks / made.updates
        n = max(1, math.ceil(turns_to_rows / recipe.optim.accumulation))
    return Batch(n, longest, n * rows.most_learned, n * rows.most_patches, rows.frame), mean


def sharding_of(optim: OptimSettings, dtype: str, ranks: int) -> tuple[Sharding, Precision]:
    """How a recipe's settings spread a model over `ranks`."""
    bf16 = dtype == "bfloat16"
    if optim.deepspeed is not None:
        zero = deepspeed_config(optim.deepspeed, dtype)["zero_optimization"]
        sharding = Sharding(
            Path(optim.deepspeed).stem,
            zero["stage"],
            ranks,
            zero.get("offload_optimizer", {}).get("device", "none") != "none",
            zero.get("offload_param", {}).get("device", "none") != "none",
        )
        return sharding, "mixed" if bf16 else "float32"
    if optim.fsdp2:
        return Sharding("fsdp2", 3, ranks), "fsdp" if bf16 else "float32"
    return Sharding("ddp", 0, ranks), "autocast" if bf16 else "float32"


def _memory(recipe: TrainRecipe, sizes: Sizes, batch: Batch, made: Rollout | None) -> Memory:
    launch, optim = recipe.launch, recipe.optim
    sharding, precision = sharding_of(optim, recipe.model.dtype, launch.ranks)
    kept = held(sizes.parts, precision, sharding)
    accumulation = 2 if optim.global_batch is None and optim.accumulation > 1 else _accumulation(optim, launch.ranks)
    step = step_bytes(
        sizes,
        batch,
        backend=recipe.model.attention,
        precision=precision,
        checkpointing=optim.gradient_checkpointing,
        accumulation=min(accumulation, 2),
        sharding=sharding,
    )
    gpu = GPUS[launch.gpu][0] * GIB if launch.gpus_per_node and launch.gpu in GPUS else None
    other: dict[str, float] = {}
    if made is not None and isinstance(recipe, GRPORecipe):
        other = _rollout_memory(recipe, sizes, sharding, kept, made, gpu)
    total = kept.weights + kept.optimiser + kept.buckets + step.peak
    asleep = isinstance(recipe, GRPORecipe) and (recipe.policy == "transformers" or recipe.vllm.enable_sleep)
    cache = other.pop("rollouts", 0.0) if asleep else 0.0  # not at the same time as a training step
    total = max(total, kept.weights + kept.optimiser + kept.buckets + cache) + sum(other.values())
    # a model is loaded whole, in float32, before it is spread; under DeepSpeed's stage 3 a rank loads its share
    loaded = 0.0 if optim.deepspeed is not None and sharding.stage == 3 else 4.0 * sizes.parts.total
    if loaded > total:
        total, other["loading, before training"] = loaded, loaded
    total += RESERVE if gpu is not None else 0.0
    if cache:
        other["rollouts, before training"] = cache
    return Memory(sharding, precision, kept, step, other, total, gpu)


def _rollout_memory(
    recipe: GRPORecipe, sizes: Sizes, sharding: Sharding, kept: Held, made: Rollout, gpu: float | None
) -> dict[str, float]:
    """The reference model of the KL term; vLLM's share of the GPU, or the caches of the streams in step, with the
    weights that stage 3 gathers for them."""
    other = {"reference": kept.weights} if recipe.loss.beta and recipe.model.lora is None else {}
    if recipe.policy == "vllm":
        if recipe.vllm.mode == "colocate" and gpu is not None:
            other["rollouts"] = recipe.vllm.gpu_memory_utilization * gpu
        return other
    streams = min(recipe.rollout.batch, math.ceil(made.episodes / recipe.launch.ranks))
    whole = (2.0 if recipe.model.dtype == "bfloat16" else 4.0) * sizes.parts.total - kept.weights
    return other | {"rollouts": streams * made.kv_a_stream + (whole if sharding.stage == 3 else 0.0)}


def _accumulation(optim: OptimSettings, ranks: int) -> int:
    if optim.global_batch is None:
        return optim.accumulation
    return max(1, optim.global_batch // (optim.batch_size * ranks))


def _of_grpo(recipe: GRPORecipe, sizes: Sizes, rows: Rows, count: int | None) -> Rollout:
    """Episodes, turns and tokens of a generation, by the sample that rows were counted of: each segment is a turn where
    the policy thinks, each poll another. Text of thoughts is taken at its limit.

    A recurrent turn reads system, text memory (so far), its clip; a growing stream reads each token once.
    """
    rollout = recipe.rollout.at(recipe.launch.ranks)
    assert rollout.groups is not None
    episodes = rollout.groups * rollout.rollouts * recipe.launch.ranks
    samples = max(1, rows.asked)
    segments, polls = rows.segments / samples, 1.0
    turns = segments + polls
    written = segments * rollout.thought_tokens + polls * rollout.answer_tokens
    memory = segments * rollout.thought_tokens
    read = segments * rows.clip + turns * 32.0  # 32: the strings around a turn, and a query
    if recipe.policy == "vllm" or len(rows.lengths) > samples:  # every turn is a prompt of its own
        read += segments * memory / 2 + polls * (memory + rows.clip)
    context = max(max(rows.lengths, default=0), memory + rows.clip)
    per_token = 2 * sizes.decoder.layers * sizes.decoder.key * (2 if recipe.model.dtype == "bfloat16" else 4)
    return Rollout(
        episodes,
        round(episodes * turns),
        episodes * read,
        episodes * written,
        context * per_token,
        recipe.loss.updates * recipe.loss.iterations,
    )


def _work(
    recipe: TrainRecipe,
    sizes: Sizes,
    rows: Rows,
    mean: Batch,
    made: Rollout | None,
    count: int | None,
    options: Options,
) -> Work:
    launch, optim = recipe.launch, recipe.optim
    ranks, why, steps = launch.ranks, "", optim.steps
    one = step_flops(sizes, mean, backend=recipe.model.attention, checkpointing=optim.gradient_checkpointing)
    if made is None:
        accumulation = _accumulation(optim, ranks)
        per_step = float(optim.batch_size * ranks * accumulation)
        rollout = 0.0
    else:
        assert isinstance(recipe, GRPORecipe)
        accumulation = optim.accumulation
        per_step = made.episodes * rows.a_sample / recipe.loss.updates
        rollout = _rollout_flops(sizes, rows, made)
        if recipe.loss.needs_old:
            rollout += one.forward * per_step * recipe.loss.updates
        if recipe.loss.beta:
            rollout += one.forward * per_step * recipe.loss.updates
        rollout /= made.updates
    if steps is None and count is None:
        why = "the samples are not here yet: say how many there will be with --samples N"
    elif steps is None:
        assert optim.epochs is not None and count is not None
        total = count * rows.a_sample
        if isinstance(recipe, SFTRecipe) and recipe.data.pack_tokens is not None and mean.length:
            total = total * (rows.tokens / max(1, len(rows.lengths))) / recipe.data.pack_tokens
        if made is None:
            steps = max(1, math.ceil(optim.epochs * total / per_step))
        else:
            assert isinstance(recipe, GRPORecipe)
            groups = made.episodes / recipe.rollout.rollouts
            steps = max(1, math.ceil(optim.epochs * count / groups)) * made.updates
    flops = Flops(one.forward * per_step, one.backward * per_step, one.recomputed * per_step)
    hours = None
    if steps is not None and launch.gpus_per_node and launch.gpu in GPUS:
        hours = steps * (flops.total + rollout) / (GPUS[launch.gpu][1] * options.mfu) / 3600
    return Work(ranks, per_step, accumulation, steps, why, flops, rollout, hours)


def _rollout_flops(sizes: Sizes, rows: Rows, made: Rollout) -> float:
    """A generation's forward passes: what is read, with its clips, and what is written token by token."""
    patches = rows.patches / max(1, rows.asked) * made.episodes
    read = forward_flops(sizes, made.prefilled, made.prefilled / made.turns, patches, rows.frame, made.turns)
    return read + forward_flops(sizes, made.generated, made.prefilled / made.turns, 0, 0, made.generated)
