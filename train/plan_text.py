"""A plan for people to read, as (name, text) pairs, and for programs, as JSON."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from train.flops import Work
from train.grpo_recipe import GRPORecipe
from train.memory import RESERVE, Memory
from train.plan import GPUS, Options, Plan, Rollout, Rows, plan
from train.plan_rows import Nominal
from train.plan_start import find_start
from train.plan_stop import WRITTEN, Stops
from train.sft import SFTRecipe
from whilst.hardware import Launch

GIB = 2**30
PRECISION = {
    "float32": "float32 throughout",
    "autocast": "float32 weights, bfloat16 under autocast",
    "fsdp": "float32 shards, gathered as bfloat16",
    "mixed": "bfloat16 weights, float32 copy in the optimiser",
}


def options(samples: int | None, mfu: float, seconds: float, segment: float) -> Options:
    """What the command line asks for."""
    return Options(samples, mfu, Nominal(seconds, segment))


def tell(recipe: SFTRecipe | GRPORecipe, path: Path, asked: Options) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The plan of the recipe that was read from `path`: as lines, and as JSON."""
    with TemporaryDirectory(prefix="whilst-plan-") as scratch:
        found = plan(recipe, asked, find_start(recipe.model.path, path, Path(scratch)))
    return lines(found, recipe.launch, asked), as_json(found, recipe.launch, asked)


def lines(found: Plan, launch: Launch, asked: Options) -> list[tuple[str, str]]:
    """The plan, and last its warnings."""
    p = found.parameters
    told = [
        ("parameters", f"{p.total:,}, of which vision {p.vision:,}; trained {p.trainable:,}, frozen {p.frozen:,}"),
        ("sizes of", found.model),
    ]
    told += [(f"mask on {name}", text) for name, text in found.masks.items()]
    told += _rows(found.rows, asked)
    told += _memory(found.memory, launch)
    told += _work(found.work, launch, asked)
    told += _stops(found.stops)
    if found.rollout is not None:
        told += _rollout(found.rollout)
    return told + [("warning", text) for text in found.warnings]


def as_json(found: Plan, launch: Launch, asked: Options) -> dict[str, Any]:
    """All figures: bytes, tokens, operations."""
    plain: dict[str, Any] = _plain(found)
    plain["memory"]["fits"] = found.memory.fits
    plain["memory"]["reserve"] = RESERVE
    plain["work"]["flops_a_step"] = found.work.flops_a_step
    return plain | {"launch": _plain(launch), "mfu": asked.mfu}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _rows(rows: Rows, asked: Options) -> list[tuple[str, str]]:
    source = f"the first {rows.samples} samples" if rows.nominal is None else f"a nominal sample: {rows.nominal}"
    counted = "exact" if rows.exact else "visual tokens exact, text approximate: no tokenizer here"
    if not rows.lengths:
        return [("rows", f"none from {source}"), *_rejected(rows)]
    shortest, middle, longest = min(rows.lengths), int(np.median(rows.lengths)), max(rows.lengths)
    return [
        ("rows", f"{len(rows.lengths)} from {source}"),
        ("tokens a row", f"{shortest:,} to {longest:,}, median {middle:,} ({counted})"),
        ("of these tokens", f"{rows.visual / rows.tokens:.0%} visual, {rows.learned / rows.tokens:.0%} learned"),
        ("a segment", f"{rows.clip:,.0f} visual tokens; {rows.segments / max(1, rows.asked):.1f} segments a sample"),
        *(
            [("similar tokens", f"{rows.dropped:.0%} of the visual ones left out of operations")]
            if rows.dropped
            else []
        ),
        *([("text memory", f"render.memory_cut leaves {rows.memory_cut:,} tokens out")] if rows.memory_cut else []),
        *_rejected(rows),
    ]


def _rejected(rows: Rows) -> list[tuple[str, str]]:
    return [(f"rejected {r.sample}", r.reason) for r in rows.rejected]


def _memory(memory: Memory, launch: Launch) -> list[tuple[str, str]]:
    h, s, ranks = memory.held, memory.step, memory.sharding.ranks
    told = [
        ("spread", f"{memory.sharding.name} over {ranks} ranks; {PRECISION[memory.precision]}"),
        ("a rank keeps", f"weights {_gib(h.weights)}, gradients {_gib(h.gradients)}, AdamW {_gib(h.optimiser)}"),
        ("activations", f"decoder {_gib(s.saved_text)}, vision {_gib(s.saved_vision)}, head {_gib(s.head)}"),
        ("step at its peak", f"{_gib(s.peak)} above weights and AdamW, gradients included"),
    ]
    if h.buckets:
        told.append(("DDP's buckets", _gib(h.buckets)))
    if h.host:
        told.append(("on the host", f"{_gib(h.host)} a rank"))
    told += [(name, _gib(size)) for name, size in memory.other.items()]
    verdict = ""
    if memory.gpu is not None:
        verdict = f" of {memory.gpu / GIB:.0f} GiB ({launch.gpu}): {'fits' if memory.fits else 'DOES NOT FIT'}"
    return [*told, ("memory of a rank", f"{_gib(memory.total)}{verdict}")]


def _work(work: Work, launch: Launch, asked: Options) -> list[tuple[str, str]]:
    recomputed = f", {work.flops.recomputed:.2e} of it recomputed" if work.flops.recomputed else ""
    rollouts = f", rollouts {work.rollout:.2e} more" if work.rollout else ""
    steps = f"{work.steps:,} updates" if work.steps is not None else f"unknown: {work.why_no_steps}"
    told = [
        ("a step", f"{work.rows_a_step:,.0f} rows: {work.ranks} ranks, accumulation {work.accumulation}"),
        ("operations a step", f"{work.flops.total:.2e} FLOPs{recomputed}{rollouts}"),
        ("steps", steps),
    ]
    if launch.gpu in GPUS and launch.gpus_per_node:
        peak = GPUS[launch.gpu][1]
        basis = f"at an assumed MFU of {asked.mfu:.0%} of {peak / 1e12:g} TFLOP/s ({launch.gpu})"
        hours = "unknown without steps" if work.gpu_hours is None else f"{work.gpu_hours:,.1f} GPU-hours"
        wall = "" if work.gpu_hours is None else f", {work.gpu_hours / work.ranks:,.1f} h on {work.ranks} GPUs"
        told.append(("time", f"{hours}{wall}, {basis}"))
        if work.rollout:
            told.append(("", "decoding is bound by memory, not by operations: rollouts take longer than this says"))
    return told


def _stops(stops: Stops) -> list[tuple[str, str]]:
    all_of_them = "more with every save"
    if stops.room is not None:
        all_of_them = f"at most {stops.most} at a time: {_gib(stops.room)}"
    told = [("on the disk", f"a checkpoint {_gib(stops.checkpoint)}, {all_of_them}")]
    if stops.unbroken is not None and stops.notice is not None:
        saving = f"then {stops.notice - stops.unbroken:,.0f} s to save at an assumed {WRITTEN / 1e9:g} GB/s"
        told.append(("told to stop", f"up to {stops.unbroken:,.0f} s to the end of what is under way, {saving}"))
    return told


def _rollout(rollout: Rollout) -> list[tuple[str, str]]:
    return [
        (
            "a generation",
            f"{rollout.episodes:,} episodes of {rollout.turns / rollout.episodes:.1f} turns, {rollout.updates} updates",
        ),
        ("its tokens", f"{rollout.prefilled:,.0f} read, at most {rollout.generated:,.0f} written"),
        ("cache of a stream", f"{_gib(rollout.kv_a_stream)} at its longest"),
        ("waits on the host", f"at most {_gib(rollout.waiting)} a rank: its rows of a generation, with their frames"),
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:,.1f} MiB"
