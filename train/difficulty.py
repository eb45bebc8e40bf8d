"""Which samples are too easy or too hard for the first policy: they have no advantage to learn from.

Rolled out once, before the first generation, and kept in `difficulty.jsonl` of the run's folder. Ranks share this work
(train/shares.py); what each has rolled out is kept beside it piece by piece, so that an attempt that ended early is
gone on with, on any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from rewards.base import Scene
from rewards.mix import RewardMix
from train.policies import Limits, Policy, Task
from train.pool import ClipStore, PoolError
from train.rows import UNUSABLE, Rejected
from train.shares import Told, shares
from train.together import from_rank_0, together
from whilst.sample import JSON, Sample, json_lines, replacing, to_record

AT_ONCE = 16  # samples a call of the policy, and a piece of the work that ranks share


@dataclass(frozen=True)
class Difficulty:
    """Samples are kept whose mean success over `rollouts` of the first policy lies in [low, high], of 0 to 1 (after
    Time-R1's filter): what always fails or always succeeds has no advantage to learn from."""

    rollouts: int
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.rollouts < 1 or not 0.0 <= self.low <= self.high <= 1.0:
            raise PoolError(f"difficulty: needs rollouts >= 1 and 0 <= low <= high <= 1, not {self}")


def keep_by_difficulty(
    success: Mapping[str, Sequence[float]], settings: Difficulty
) -> tuple[list[str], list[Rejected]]:
    """The ids that are kept, in order, and the others with their reason. Samples in = kept + rejected.

    success: by sample id, one value of 0 to 1 a rollout, or none where it could not be watched: it is kept here, and
    rejected with its reason when its turn comes. PoolError: other numbers of rollouts, or another value.
    """
    kept, rejected = [], []
    for sample, values in success.items():
        if not values:
            kept.append(sample)
            continue
        if len(values) != settings.rollouts or not all(0.0 <= value <= 1.0 for value in values):
            raise PoolError(f"sample {sample}: needs {settings.rollouts} successes of 0 to 1, not {list(values)}")
        mean = math.fsum(values) / len(values)
        told = f"mean success {mean:.3g} of {settings.rollouts} rollouts"
        if mean < settings.low:
            rejected.append(Rejected(sample, f"too hard: {told} is below {settings.low:g}"))
        elif mean > settings.high:
            rejected.append(Rejected(sample, f"too easy: {told} is above {settings.high:g}"))
        else:
            kept.append(sample)
    return kept, rejected


_SCHEMA = "whilst.difficulty/1"


def write_difficulty(
    path: Path,
    samples: Sequence[Sample],
    success: Mapping[str, Sequence[float]],
    settings: Difficulty,
    made_with: Mapping[str, JSON],
) -> None:
    """Keep what was rolled out; made_with: all else that decides it (checkpoint, limits, reward, seed), as JSON."""
    head = {"schema": _SCHEMA, "rollouts": settings.rollouts, "made_with": made_with}
    lines = [{"sample": s.id, "digest": _digest(s), "success": list(success[s.id])} for s in samples]
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for line in (head, *lines):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_difficulty(
    path: Path, samples: Sequence[Sample], settings: Difficulty, made_with: Mapping[str, JSON]
) -> dict[str, list[float]]:
    """Success by sample id, as `write_difficulty` had it, so that a resumed run does not roll out again.

    `low` and `high` may differ from those it was written with. PoolError: a file of other samples or settings.
    """
    found = _read(path, samples, settings, made_with)
    for id in sorted({sample.id for sample in samples} ^ found.keys()):
        raise PoolError(f"{path}: sample {id} is in the file or in the data, but not in both; {_REMOVE}")
    return found


def _read(
    path: Path, samples: Sequence[Sample], settings: Difficulty, made_with: Mapping[str, JSON]
) -> dict[str, list[float]]:
    """As read_difficulty, of a file that may lack samples."""
    head, rows = _lines(path)
    wanted = {"rollouts": settings.rollouts, **json.loads(json.dumps(dict(made_with)))}
    stored = {"rollouts": head["rollouts"], **head["made_with"]}
    for name in sorted(wanted.keys() | stored.keys()):
        if wanted.get(name) != stored.get(name):
            raise PoolError(f"{path}: made with {name} = {stored.get(name)!r}, not {wanted.get(name)!r}; {_REMOVE}")
    digests = {row["sample"]: row["digest"] for row in rows}
    for sample in samples:
        if sample.id in digests and digests[sample.id] != _digest(sample):
            raise PoolError(f"{path}: sample {sample.id} has changed since it was rolled out; {_REMOVE}")
    return {row["sample"]: row["success"] for row in rows}


_REMOVE = "remove it, and the samples are rolled out again"


def _lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head and the samples of a difficulty file."""
    head: dict[str, Any] | None = None
    rows = []
    for number, line in json_lines(path):
        keys = {"schema", "rollouts", "made_with"} if head is None else {"sample", "digest", "success"}
        if not isinstance(line, dict) or line.keys() != keys or line.get("schema", _SCHEMA) != _SCHEMA:
            raise PoolError(f"{path}:{number}: not a line of schema {_SCHEMA!r}; {_REMOVE}")
        if head is None:
            head = line
        else:
            rows.append(line)
    if head is None:
        raise PoolError(f"{path}: the file is empty; {_REMOVE}")
    return head, rows


def _digest(sample: Sample) -> str:
    """Of what is watched and asked; not of the video's path, so that a folder may move."""
    record = to_record(sample)
    told = json.dumps([record["memory"], record["events"]], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def rolled_out(
    file: Path,
    samples: Sequence[Sample],
    settings: Difficulty,
    made_with: Mapping[str, JSON],
    measure: Callable[[Mapping[int, Sample]], Mapping[str, list[float]]],
) -> dict[str, list[float]]:
    """Success by sample id, as `file` keeps it, or as `measure` finds it now, over all ranks. measure: of samples by
    their number.

    Raises:
        PoolError: the file, or a part of it, is of something else; or another rank failed.
        Interrupted: a rank was asked to stop; what is rolled out is kept.
    """
    state, parts = PartialState(), file.with_name(f".{file.stem}")
    known: dict[str, list[float]] = {}
    with together(PoolError):
        if state.is_main_process and file.exists():
            known = read_difficulty(file, samples, settings, made_with)
        elif state.is_main_process:
            parts.mkdir(parents=True, exist_ok=True)
            for part in sorted(parts.glob("*.jsonl")):
                known |= _read(part, samples, settings, made_with)
    found: dict[str, list[float]] = from_rank_0(known)
    todo = [number for number, sample in enumerate(samples) if sample.id not in found]
    if not todo:
        return found
    pieces = [todo[start : start + AT_ONCE] for start in range(0, len(todo), AT_ONCE)]
    own: dict[str, list[float]] = {}
    own_part = parts / f"{secrets.token_hex(4)}.jsonl"
    told = Told("parts of the samples rolled out for their difficulty", [float(len(one)) for one in pieces], file)
    with shares(len(pieces), PoolError, told) as taken:
        for piece in taken:
            own |= measure({number: samples[number] for number in pieces[piece]})
            write_difficulty(own_part, [one for one in samples if one.id in own], own, settings, made_with)
    found |= {name: values for part_of in gather_object([own]) for name, values in part_of.items()}
    with together(PoolError):
        if state.is_main_process:
            write_difficulty(file, samples, found, settings, made_with)
            shutil.rmtree(parts)
    return found


def measure(
    samples: Mapping[int, Sample],
    policy: Policy,
    store: ClipStore,
    mix: RewardMix,
    settings: Difficulty,
    limits: Limits,
    seed: int,
) -> dict[str, list[float]]:
    """Success by sample id: the score of the first reward in each rollout, which must be of 0 to 1. samples: by the
    number that decides their seeds.

    PoolError: that reward does not apply to a sample, or is no share. Nothing of a sample that cannot be watched.
    """
    label = mix.terms[0].called
    reward = mix.rewards[label]
    if reward.perturbations:
        raise PoolError(f"difficulty: the first reward, {label}, compares rollouts; put one of 0 to 1 first")
    tasks: list[Task] = []
    success: dict[str, list[float]] = {}
    watched: list[Sample] = []
    for number, sample in samples.items():
        try:
            clips = store.get(sample)
        except UNUSABLE:
            success[sample.id] = []
            continue
        watched.append(sample)
        tasks += [Task(sample, clips, (seed, number, r, 3), rollout=r) for r in range(settings.rollouts)]
    policy.sync()
    episodes = policy.rollout(tasks, limits) if tasks else []
    for i, sample in enumerate(watched):
        group = tuple(episodes[i * settings.rollouts : (i + 1) * settings.rollouts])
        scored = [reward(episode, Scene(group)) for episode in group]
        if any(one is None or not 0.0 <= one.score <= 1.0 for one in scored):
            raise PoolError(f"difficulty: sample {sample.id}: reward {label} gives no share of 0 to 1")
        success[sample.id] = [one.score for one in scored if one is not None]
    return success
