"""One job on one block of samples: an arm as it is, under a control, or reading another's thoughts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import controls
from evaluation.cache import blocks_of, files_hash, model_files
from evaluation.constants import best_constants, constant_episodes
from evaluation.controls import Controlled, Whole
from evaluation.predict import EvaluationError, predict
from evaluation.recipe import EvalRecipe, Job
from whilst.checkpoint import Checkpoint, Contract, read_contract
from whilst.clips import SegmentClip
from whilst.sample import Sample

BEST_CONSTANTS, NAMED_CONSTANT, BACKBONE = "constant_answers", "constant_named", "untouched_backbone"
SIGHTLESS = (BEST_CONSTANTS, NAMED_CONSTANT)  # need neither video nor checkpoint
NEIGHBOURS = ("thoughts_shuffled", controls.SWAPPED)  # take the thoughts of the next sample in the block


def settings_of(recipe: EvalRecipe, job: Job) -> dict[str, Any]:
    """The part of the recipe that decides what the job predicts."""
    found: dict[str, Any] = {
        "batch": recipe.batch,
        "thought_tokens": recipe.thought_tokens,
        "answer_tokens": recipe.answer_tokens,
        "seed": recipe.seed,
        "temperature": recipe.temperature.get(job.arm, 0.0),
        "policies": list(recipe.policies.get(job.arm, ())),
        "control": job.control,
        "writer": job.writer,
    }
    if job.control == "last_frames":
        found["last_frames"] = recipe.last_frames
    elif job.control == "filler_tokens":
        found["filler"] = recipe.filler
    elif job.control == NAMED_CONSTANT:
        found["constant"] = recipe.constant
    elif job.control == BACKBONE:
        base = Path(read_contract(recipe.arms[job.arm]).base)
        found["base"] = files_hash(model_files(base), base) if base.is_dir() else str(base)
    return found


def why_not(recipe: EvalRecipe, job: Job, contract: Contract, samples: Sequence[Sample]) -> str:
    """Why a control says nothing about this arm on these samples; "" where it does."""
    if job.control is None:
        return ""
    if reason := controls.named(job.control).valid(contract):
        return reason
    if job.control == controls.GREEDY and job.arm not in recipe.temperature:
        return "its thoughts are the likeliest ones as it is"
    if job.control == "oracle_evidence":
        left = controls.uncovered(samples)
        if len(left) == sum(len(sample.queries()) for sample in samples):
            return f"no query of these samples can be covered: {left[0].reason if left else 'there is none'}"
    if job.control in NEIGHBOURS:
        for which in blocks_of(samples, recipe.batch):
            try:
                controls.check_distinct([samples[i] for i in which], len(which))
            except EvaluationError as error:
                return str(error)
    return ""


def watched(
    recipe: EvalRecipe,
    job: Job,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    clips: Sequence[Sequence[SegmentClip]],
    written: Sequence[Sequence[str]] | None = None,
) -> Controlled:
    """What comes of a block of samples, watched in step. written: the thoughts of the arm `job.writer`, if there is
    one: a text a segment of each sample."""
    limits: dict[str, Any] = {
        "batch": len(samples),
        "thought_tokens": recipe.thought_tokens,
        "answer_tokens": recipe.answer_tokens,
        "seed": recipe.seed,
    }
    if job.writer is not None:
        return Controlled(samples, predict(checkpoint, samples, clips, **limits, thoughts=written))
    limits["temperature"] = recipe.temperature.get(job.arm, 0.0)
    if job.control is None:
        return Controlled(samples, predict(checkpoint, samples, clips, **limits))
    whole = Whole(checkpoint, samples, clips, limits, recipe.last_frames, recipe.filler, recipe.constant)
    return controls.run_control(job.control, whole)


def sightless(recipe: EvalRecipe, job: Job, every: Sequence[Sample], block: Sequence[Sample]) -> Controlled:
    """A block under a control that looks at nothing. The best constants are those of all samples."""
    constants: Mapping[str, str] = best_constants(every)
    if job.control == NAMED_CONSTANT:
        constants = dict.fromkeys(constants, recipe.constant)
    return Controlled(block, constant_episodes(block, constants), constants=constants)
