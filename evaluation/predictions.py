"""Predictions of all jobs, over processes and devices, from the cache where it holds them.

Jobs are cut into blocks (evaluation/cache.py), and blocks are dealt to `shards`. Every process keeps to one device and
takes a (job, shard) at a time. What a block becomes does not depend on who makes it, so any number of shards gives the
same predictions. Jobs that need another's thoughts come after it.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from evaluation.cache import (
    Predicted,
    blocks_of,
    check_ids,
    folder_of,
    manifest_of,
    open_folder,
    read_block,
    write_block,
)
from evaluation.controls import LeftOut
from evaluation.jobs import NEIGHBOURS, SIGHTLESS, settings_of, sightless, watched
from evaluation.predict import Episode, EvaluationError
from evaluation.recipe import EvalRecipe, Job, checkpoint_of
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip, segment_clips
from whilst.sample import Sample, read_samples
from whilst.video import VideoError

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")

_device = "cpu"  # of this process


@dataclass(frozen=True)
class Done:
    """What became of one shard of a job: samples that were read again and made, failures among them, seconds, notes."""

    job: str
    reused: int = 0
    made: int = 0
    failed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def load_samples(recipe: EvalRecipe) -> list[Sample]:
    samples = read_samples(recipe.samples)[: recipe.limit]
    if not samples:
        raise EvaluationError(f"samples: {recipe.samples}: no sample is there")
    check_ids(samples)
    return samples


def check_devices(devices: Sequence[str]) -> None:
    """Raise unless every device is here."""
    for device in devices:
        kind, _, number = device.partition(":")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            raise EvaluationError(
                f"devices: {device}: this machine has {torch.cuda.device_count()} CUDA devices; use devices: [cpu]"
            )


def predict_all(recipe: EvalRecipe, jobs: Mapping[str, Job]) -> tuple[dict[str, Done], dict[str, dict[str, Any]]]:
    """Make or read the predictions of every job; returns what was done and the manifests, by name of the job.

    Raises EvaluationError where a process was killed; run it again, and it goes on from what is written.
    """
    check_devices(recipe.devices)
    done, manifests = open_folders(recipe, jobs, load_samples(recipe))
    first = [name for name, job in jobs.items() if job.writer is None]
    for wave in (first, [name for name in jobs if name not in first]):
        for found in _wave(recipe, {name: jobs[name] for name in wave}):
            done[found.job] = _joined(done[found.job], found)
    for one in done.values():
        for note in one.notes:
            print(note, file=sys.stderr)
    return done, manifests


def open_folders(
    recipe: EvalRecipe, jobs: Mapping[str, Job], samples: Sequence[Sample]
) -> tuple[dict[str, Done], dict[str, dict[str, Any]]]:
    """Make every job's folder ready: nothing is done yet, and the manifests, by name of the job."""
    manifests = manifests_of(recipe, jobs, samples)
    done = {}
    for name, manifest in manifests.items():
        why = open_folder(folder_of(recipe.output, name), manifest)
        done[name] = Done(name, notes=(why,) if why else ())
    return done, manifests


def manifests_of(recipe: EvalRecipe, jobs: Mapping[str, Job], samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    code = commit()
    for name, job in sorted(jobs.items(), key=lambda item: item[1].writer is not None):
        found[name] = manifest_of(
            recipe.arms[job.arm],
            samples,
            settings_of(recipe, job),
            device=recipe.devices[0],
            thoughts_of=found[job.writer] if job.writer is not None else None,
            commit=code,
        )
    return {name: found[name] for name in jobs}


def _joined(one: Done, other: Done) -> Done:
    return Done(
        one.job,
        one.reused + other.reused,
        one.made + other.made,
        one.failed + other.failed,
        one.seconds + other.seconds,
        one.notes + other.notes,
    )


def _wave(recipe: EvalRecipe, jobs: Mapping[str, Job]) -> list[Done]:
    tasks = [(name, job, shard) for name, job in jobs.items() for shard in range(recipe.shards)]
    return list(spread(recipe, predict_task, tasks).values())


def predict_task(recipe: EvalRecipe, task: tuple[str, Job, int], device: str) -> Done:
    return predict_shard(recipe, *task, device)


def spread(recipe: EvalRecipe, work: Callable[[EvalRecipe, T, str], R], tasks: Sequence[T]) -> dict[T, R]:
    """work(recipe, task, device) of every task, over `jobs` processes that keep to one device each.

    Raises EvaluationError where a process was killed.
    """
    if recipe.jobs == 1 or len(tasks) < 2:
        return {task: work(recipe, task, recipe.devices[0]) for task in tasks}
    context = multiprocessing.get_context("spawn")
    devices = context.SimpleQueue()
    for process in range(recipe.jobs):
        devices.put(recipe.devices[process % len(recipe.devices)])
    with ProcessPoolExecutor(recipe.jobs, mp_context=context, initializer=_begin, initargs=(devices,)) as pool:
        futures = {pool.submit(_work_here, work, recipe, task): task for task in tasks}
        try:
            found = {futures[future]: future.result() for future in as_completed(futures)}
        except BrokenProcessPool as error:
            raise EvaluationError(
                "a process of the evaluation was killed (is there enough memory?); run it again with fewer `jobs`: "
                "it goes on from the predictions that are written"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return {task: found[task] for task in tasks}


def _begin(devices: Any) -> None:
    global _device
    _device = devices.get()


def _work_here(work: Callable[[EvalRecipe, T, str], R], recipe: EvalRecipe, task: T) -> R:
    return work(recipe, task, _device)


def predict_shard(recipe: EvalRecipe, name: str, job: Job, shard: int, device: str) -> Done:
    """The blocks `shard`, `shard + shards`, ... of a job: those that are not there are made and written."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    samples = load_samples(recipe)
    folder = folder_of(recipe.output, name)
    checkpoint: Checkpoint | None = None
    reused, made, failed, notes = 0, 0, 0, []
    for index, which in list(enumerate(blocks_of(samples, recipe.batch)))[shard :: recipe.shards]:
        chosen = [samples[i] for i in which]
        found, why = read_block(folder, index, [sample.id for sample in chosen])
        broken = [one.sample for one in found or () if one.failure]
        if broken:
            why = f"{folder}: sample {broken[0]} had failed ({len(broken)} in its block); the block is predicted again"
        if why:
            notes.append(why)
        if found is not None and not broken:
            reused += len(found)
            continue
        if job.control in SIGHTLESS:
            given = sightless(recipe, job, samples, chosen)
            block = [_predicted(sample.id, given.episodes) for sample in chosen]
        else:
            checkpoint = checkpoint or checkpoint_of(recipe, job.arm, device)
            written = read_written(recipe, job.writer, index, chosen) if job.writer is not None else None
            block = predict_block(recipe, job, checkpoint, chosen, written)
        write_block(folder, index, block)
        made += len(block)
        failed += sum(bool(one.failure) for one in block)
    return Done(name, reused, made, failed, time.perf_counter() - started, tuple(notes))


def predict_block(
    recipe: EvalRecipe,
    job: Job,
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    written: Mapping[str, Predicted] | None,
) -> list[Predicted]:
    """Watch a block. A sample whose video cannot be read is a failure; any other error stops the run."""
    clips: dict[str, list[SegmentClip]] = {}
    failures: dict[str, str] = {}
    for sample in samples:
        if written is not None and written[sample.id].failure:
            failures[sample.id] = written[sample.id].failure
            continue
        try:
            clips[sample.id] = segment_clips(sample, checkpoint.contract.fps)
        except VideoError as error:
            failures[sample.id] = " ".join(str(error).split())
    seen = [sample for sample in samples if sample.id not in failures]
    if job.control in NEIGHBOURS and failures and len({sample.video.path for sample in seen}) < 2:
        failures |= {sample.id: "no other video of its block could be read" for sample in seen}
        seen = []
    texts = None
    if written is not None:
        texts = [[text for _, text, _ in written[sample.id].episodes[0].thoughts] for sample in seen]
    found = watched(recipe, job, checkpoint, seen, [clips[s.id] for s in seen], texts) if seen else None
    episodes, left_out = (found.episodes, found.left_out) if found is not None else ([], ())
    return [_predicted(sample.id, episodes, failures.get(sample.id, ""), left_out) for sample in samples]


def _predicted(
    sample: str, episodes: Sequence[Episode], failure: str = "", left_out: Sequence[LeftOut] = ()
) -> Predicted:
    """What concerns one sample."""
    return Predicted(
        sample,
        tuple(episode for episode in episodes if episode.sample == sample),
        failure,
        tuple((item.query, item.reason) for item in left_out if item.sample == sample),
    )


def read_written(recipe: EvalRecipe, source: str, index: int, samples: Sequence[Sample]) -> dict[str, Predicted]:
    """What an arm's own job wrote about a block, by sample."""
    found, why = read_block(folder_of(recipe.output, source), index, [sample.id for sample in samples])
    if found is None:
        raise EvaluationError(f"{source}: no thoughts of this block ({why or 'not predicted yet'}); run it again")
    return {one.sample: one for one in found}


def predictions_of(recipe: EvalRecipe, name: str, samples: Sequence[Sample]) -> list[Predicted]:
    """All predictions of a job, in the order of the samples."""
    folder = folder_of(recipe.output, name)
    by_id: dict[str, Predicted] = {}
    for index, which in enumerate(blocks_of(samples, recipe.batch)):
        found, why = read_block(folder, index, [samples[i].id for i in which])
        if found is None:
            raise EvaluationError(f"{folder}: block {index} is missing or broken ({why}); run the evaluation again")
        by_id |= {one.sample: one for one in found}
    return [by_id[sample.id] for sample in samples]


def commit() -> str | None:
    """The commit of the code, or None outside a checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else None
