"""What is measured of an arm beside its accuracy: the causality audit and what thinking costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import ceil
from typing import Any

import torch

from evaluation import costs, ledger, stream_cost
from evaluation.audit import audit_streams
from evaluation.predictions import load_samples, spread
from evaluation.recipe import EvalRecipe, checkpoint_of
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip, segment_clips
from whilst.runtime import StreamBatch
from whilst.sample import Sample
from whilst.session import StreamSession
from whilst.video import VideoError


def measure_all(recipe: EvalRecipe) -> dict[str, Any]:
    """By name of the measurement and arm, as the report holds it; a measurement that is not asked for is left out."""
    found = spread(recipe, measure_arm, list(recipe.arms))
    return {
        name: {arm: of_arm[name] for arm, of_arm in found.items() if name in of_arm}
        for name in dict.fromkeys(key for of_arm in found.values() for key in of_arm)
    }


def measure_arm(recipe: EvalRecipe, arm: str, device: str) -> dict[str, Any]:
    """What is measured of one arm, on the first samples whose videos can be read."""
    wanted = max(recipe.audit_samples, recipe.ledger_samples, int(recipe.stream_seconds > 0))
    if not wanted:
        return {}
    torch.set_num_threads(1)
    checkpoint = checkpoint_of(recipe, arm, device)
    streams = partial(StreamBatch, policy=checkpoint.policy)
    samples: list[Sample] = []
    clips: list[list[SegmentClip]] = []
    for sample in load_samples(recipe):
        if len(samples) == wanted:
            break
        try:
            clips.append(segment_clips(sample, checkpoint.contract.fps))
        except VideoError:  # a failure of every job already, and listed there
            continue
        samples.append(sample)
    if not samples:
        return {}
    limits: dict[str, Any] = {"thought_tokens": recipe.thought_tokens, "answer_tokens": recipe.answer_tokens}
    found: dict[str, Any] = {}
    if recipe.audit_samples:
        audited, shown = samples[: recipe.audit_samples], clips[: recipe.audit_samples]
        asked: dict[str, Any] = {"seed": recipe.seed, "temperature": recipe.temperature.get(arm, 0.0), **limits}
        asked |= {"cuts": recipe.audit_cuts, "streams": streams}
        found["audit"] = audit_streams(checkpoint, audited, shown, **asked).record()
    if recipe.ledger_samples:
        timed = list(zip(samples, clips, strict=True))[: recipe.ledger_samples]
        timing = limits | {"streams": streams}
        ledger.measure(checkpoint, *timed[0], **timing)  # the first run of a process pays for what later ones reuse
        found["ledger"] = _ledger(checkpoint, timed, timing)
    if recipe.stream_seconds and clips[0]:
        found["stream_cost"] = _long_stream(checkpoint, clips[0], recipe.stream_seconds, limits)
    return found


def _long_stream(
    checkpoint: Checkpoint, clips: Sequence[SegmentClip], seconds: float, limits: Mapping[str, Any]
) -> dict[str, Any]:
    """A stream of so many seconds of video: the segments of one sample again and again, on a clock that goes on."""
    contract = checkpoint.contract
    if contract.render.scheme == "batch":
        return {"reason": "scheme 'batch' must know the whole stream beforehand"}
    if contract.render.queries == "kept":
        return {"reason": "a stream with kept queries is not measured without them"}
    begin, length = clips[0].segment.start, clips[-1].segment.end - clips[0].segment.start

    def pieces() -> Iterator[stream_cost.Piece]:
        for i in range(ceil(seconds / length)):
            for clip in clips:
                end = i * length + clip.segment.end - begin
                if end > seconds + 1e-9:
                    return
                yield end, clip.images, [i * length + time - begin for time in clip.times]

    settings: dict[str, Any] = {"fps": contract.fps, "policy": checkpoint.policy, **limits}
    with StreamSession(checkpoint.backbone, checkpoint.renderer, **settings) as session:
        costs = stream_cost.watch_cost(
            session, pieces(), thinks=contract.thinks, held=lambda: stream_cost.held_by(session.batch)
        )
    if not costs:
        return {"reason": f"stream_seconds: {seconds:g}: shorter than the first segment"}
    return stream_cost.stream_cost(costs)


def _ledger(
    checkpoint: Checkpoint, timed: Sequence[tuple[Sample, Sequence[SegmentClip]]], limits: Mapping[str, Any]
) -> dict[str, Any]:
    """Measured: thinking ahead of the query and, where it thinks, after it. Simulated with the measured costs: the same
    work under other schedulers."""
    ahead = [ledger.measure(checkpoint, sample, clips, **limits) for sample, clips in timed]
    found: dict[str, Any] = {"ahead": ledger.summary(ahead)}
    if checkpoint.contract.thinks:
        after = [ledger.measure(checkpoint, sample, clips, order="after", **limits) for sample, clips in timed]
        found["after"] = ledger.summary(after)
    measured = costs.measured_costs(ahead)
    return found | {"costs": asdict(measured), "simulated": costs.schedules(costs.work_of(ahead[0]), measured)}
