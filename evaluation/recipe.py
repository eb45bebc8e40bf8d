"""The recipe of the `eval` stage, and the jobs that it asks for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from evaluation import controls
from evaluation.predict import EvaluationError
from whilst.checkpoint import Checkpoint, Contract, load_checkpoint, read_contract
from whilst.policies import PolicyError, make_policy
from whilst.recipe import Recipe


@dataclass(frozen=True)
class Reading:
    """Arm `reader` answers from the thoughts that arm `writer` writes about the same videos, in place of its own."""

    reader: str
    writer: str


@dataclass(frozen=True)
class EvalRecipe(Recipe):
    """Arms (name -> folder of a checkpoint) on one set of samples.

    scorer: `exact` (the sample's own answer, word for word) or the name of a benchmark, whose rules then judge.
    controls: `all` or a list, for every arm or by arm; one that an arm's layout makes meaningless is listed as such.
    policies: memory policies (whilst/policies/) that an arm is served with, in place of its contract's.
    jobs: processes; each keeps to one of `devices`. shards: parts that the samples of one job are split into, by video.
    Thoughts are the likeliest ones, or, where `temperature` has the arm, drawn: a policy that speaks half of the time
    has no likeliest way. `gains`: of what (an arm, a name of `readers`, or `<arm>/<control>`) over which such baseline.
    """

    output: str = field(kw_only=True)
    samples: str = field(kw_only=True)
    arms: dict[str, str] = field(kw_only=True)
    control_arm: str | None = field(kw_only=True, default=None)  # text memory: takes all controls
    kv_arm: str | None = field(kw_only=True, default=None)  # KV memory: its leak is measured
    control_arms: dict[str, tuple[str, ...]] = field(kw_only=True, default_factory=dict)  # others, and which they take
    controls: Literal["all"] | tuple[str, ...] | dict[str, Literal["all"] | tuple[str, ...]] = field(
        kw_only=True, default=()
    )
    readers: dict[str, Reading] = field(kw_only=True, default_factory=dict)  # text memory
    scorer: str = field(kw_only=True, default="exact")
    gains: dict[str, str] = field(kw_only=True, default_factory=dict)
    temperature: dict[str, float] = field(kw_only=True, default_factory=dict)
    policies: dict[str, tuple[dict[str, Any], ...]] = field(kw_only=True, default_factory=dict)
    idle_thought: str = field(kw_only=True, default="none .")  # says as little as silence does
    last_frames: int = field(kw_only=True, default=4)
    filler: str = field(kw_only=True, default=" .")  # the token of filler_tokens
    constant: str = field(kw_only=True, default="A")  # the reply of constant_named
    limit: int | None = field(kw_only=True, default=None)
    batch: int = field(kw_only=True, default=64)
    thought_tokens: int = field(kw_only=True, default=16)
    answer_tokens: int = field(kw_only=True, default=8)
    bootstrap_draws: int = field(kw_only=True, default=2000)
    audit_samples: int = field(kw_only=True, default=2)  # of each arm, watched again with another future; 0: no audit
    audit_cuts: int = field(kw_only=True, default=2)  # moments a sample
    ledger_samples: int = field(kw_only=True, default=2)  # of each arm, timed action by action; 0: no ledger
    stream_seconds: float = field(kw_only=True, default=0.0)  # of a long stream whose growth is measured; 0: none
    shown_episodes: int = field(kw_only=True, default=3)
    jobs: int = field(kw_only=True, default=1)
    devices: tuple[str, ...] = field(kw_only=True, default=("cpu",))
    shards: int = field(kw_only=True, default=1)

    def __post_init__(self) -> None:
        special = [("control_arm", self.control_arm), ("kv_arm", self.kv_arm)]
        named = [(name, arm) for name, arm in special if arm is not None]
        named += [("control_arms", arm) for arm in self.control_arms]
        named += [("temperature", arm) for arm in self.temperature]
        named += [("policies", arm) for arm in self.policies]
        named += [(f"readers.{name}", arm) for name, r in self.readers.items() for arm in (r.reader, r.writer)]
        for name, arm in named:
            if arm not in self.arms:
                raise ValueError(f"{name}: {arm!r} must be one of arms: {', '.join(sorted(self.arms))}")
        for arm, names in self.control_arms.items():
            given = controls.CONTROLS + ((controls.GREEDY,) if arm in self.temperature else ())
            for name in names:
                if name not in given:
                    raise ValueError(f"control_arms.{arm}: {name!r} must be one of {', '.join(given)}")
        for arm, names in asked_controls(self).items():
            if arm not in self.arms:
                raise ValueError(f"controls: {arm!r} must be one of arms: {', '.join(sorted(self.arms))}")
            for name in names:
                if name not in controls.REGISTRY:
                    raise ValueError(f"controls: {name!r} must be all or of {', '.join(controls.REGISTRY)}")
        for arm, temperature in self.temperature.items():
            if not 0.0 < temperature < math.inf:
                raise ValueError(
                    f"temperature.{arm}: {temperature}: must be above 0; leave the arm out for the likeliest"
                )
        for arm, settings in self.policies.items():
            try:
                make_policy(settings)
            except PolicyError as error:
                raise ValueError(f"policies.{arm}: {error}") from error
        for name, count in (("batch", self.batch), ("jobs", self.jobs), ("shards", self.shards)):
            if count < 1:
                raise ValueError(f"{name}: {count}: must be at least 1")
        if not self.devices or not all(re.fullmatch(r"cpu|cuda(:\d+)?", device) for device in self.devices):
            raise ValueError(f"devices: {', '.join(self.devices) or 'none'}: must be cpu, cuda or cuda:N")
        if len({device.partition(":")[0] for device in self.devices}) > 1:
            raise ValueError("devices: cpu and cuda do not give the same bits; use one kind in a run")
        if shared := set(self.readers) & set(self.arms):
            raise ValueError(f"readers: {', '.join(sorted(shared))}: names of arms; give each its own")
        known = list(named_jobs(self))
        for pair in self.gains.items():
            for name in pair:
                if name not in known:
                    raise ValueError(f"gains: {name!r} must be one of {', '.join(known)}")


def contract_of(recipe: EvalRecipe, arm: str) -> Contract:
    """The contract of an arm, with the policies that the recipe serves it with."""
    contract = read_contract(recipe.arms[arm])
    return replace(contract, policy=recipe.policies[arm]) if arm in recipe.policies else contract


def checkpoint_of(recipe: EvalRecipe, arm: str, device: str) -> Checkpoint:
    """The checkpoint of an arm under `contract_of`."""
    return replace(load_checkpoint(recipe.arms[arm], device=device), contract=contract_of(recipe, arm))


def asked_controls(recipe: EvalRecipe) -> dict[str, tuple[str, ...]]:
    """The controls that `controls` asks for, by arm."""
    given = recipe.controls
    by_arm = given if isinstance(given, dict) else dict.fromkeys(recipe.arms, given)
    return {arm: tuple(controls.REGISTRY) if names == "all" else tuple(names) for arm, names in by_arm.items()}


@dataclass(frozen=True)
class Job:
    """One arm on all samples: whole, under a control, or reading the thoughts of arm `writer`."""

    arm: str
    control: str | None = None
    writer: str | None = None


def named_jobs(recipe: EvalRecipe) -> dict[str, Job]:
    """All jobs by name: an arm's, `<arm>/<control>`, a reader's."""
    jobs = {arm: Job(arm) for arm in recipe.arms}
    taken = {recipe.control_arm: controls.CONTROLS} if recipe.control_arm is not None else {}
    for arm, names in (*taken.items(), *recipe.control_arms.items(), *asked_controls(recipe).items()):
        jobs |= {f"{arm}/{name}": Job(str(arm), name) for name in names}
    if recipe.kv_arm is not None:
        jobs[f"{recipe.kv_arm}/{controls.SWAPPED}"] = Job(recipe.kv_arm, controls.SWAPPED)
    return jobs | {name: Job(r.reader, writer=r.writer) for name, r in recipe.readers.items()}


def check_readers(recipe: EvalRecipe) -> None:
    """Raise unless every reader and writer thinks, and every reader has text memory: words are all that it keeps."""
    for name, reading in recipe.readers.items():
        for arm in (reading.reader, reading.writer):
            if not contract_of(recipe, arm).thinks:
                raise EvaluationError(f"readers.{name}: arm {arm!r} does not think; name arms that do")
        layout = contract_of(recipe, reading.reader).render.layout
        if layout not in ("recurrent", "recurrent_packed"):
            raise EvaluationError(
                f"readers.{name}: arm {reading.reader!r} has layout {layout!r}, whose keys and values also carry what "
                f"it sees; a reader needs text memory (recurrent, recurrent_packed)"
            )
