"""The recipe of the `eval` stage, and the jobs that it asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from evaluation import controls
from evaluation.predict import EvaluationError
from whilst.checkpoint import read_contract
from whilst.recipe import Recipe


@dataclass(frozen=True)
class Reading:
    """Arm `reader` answers from the thoughts that arm `writer` writes about the same videos, in place of its own."""

    reader: str
    writer: str


@dataclass(frozen=True)
class EvalRecipe(Recipe):
    """Arms (name -> folder of a checkpoint) on one set of samples.

    Thoughts are the likeliest ones, or, where `temperature` has the arm, drawn: a policy that speaks half of the time
    has no likeliest way. `gains`: of what (an arm, a name of `readers`, or `<arm>/<control>`) over which such baseline.
    """

    output: str = field(kw_only=True)
    samples: str = field(kw_only=True)
    arms: dict[str, str] = field(kw_only=True)
    control_arm: str | None = field(kw_only=True, default=None)  # text memory: takes all controls
    kv_arm: str | None = field(kw_only=True, default=None)  # KV memory: its leak is measured
    control_arms: dict[str, tuple[str, ...]] = field(kw_only=True, default_factory=dict)  # others, and which they take
    readers: dict[str, Reading] = field(kw_only=True, default_factory=dict)  # text memory
    gains: dict[str, str] = field(kw_only=True, default_factory=dict)
    temperature: dict[str, float] = field(kw_only=True, default_factory=dict)
    idle_thought: str = field(kw_only=True, default="none .")  # says as little as silence does
    last_frames: int = field(kw_only=True, default=4)
    limit: int | None = field(kw_only=True, default=None)
    batch: int = field(kw_only=True, default=64)
    thought_tokens: int = field(kw_only=True, default=16)
    answer_tokens: int = field(kw_only=True, default=8)
    bootstrap_draws: int = field(kw_only=True, default=2000)
    shown_episodes: int = field(kw_only=True, default=3)
    jobs: int = field(kw_only=True, default=1)

    def __post_init__(self) -> None:
        special = [("control_arm", self.control_arm), ("kv_arm", self.kv_arm)]
        named = [(name, arm) for name, arm in special if arm is not None]
        named += [("control_arms", arm) for arm in self.control_arms]
        named += [("temperature", arm) for arm in self.temperature]
        named += [(f"readers.{name}", arm) for name, r in self.readers.items() for arm in (r.reader, r.writer)]
        for name, arm in named:
            if arm not in self.arms:
                raise ValueError(f"{name}: {arm!r} must be one of arms: {', '.join(sorted(self.arms))}")
        for arm, names in self.control_arms.items():
            given = controls.CONTROLS + ((controls.GREEDY,) if arm in self.temperature else ())
            for name in names:
                if name not in given:
                    raise ValueError(f"control_arms.{arm}: {name!r} must be one of {', '.join(given)}")
        for arm, temperature in self.temperature.items():
            if not 0.0 < temperature < math.inf:
                raise ValueError(
                    f"temperature.{arm}: {temperature}: must be above 0; leave the arm out for the likeliest"
                )
        if shared := set(self.readers) & set(self.arms):
            raise ValueError(f"readers: {', '.join(sorted(shared))}: names of arms; give each its own")
        known = list(named_jobs(self))
        for pair in self.gains.items():
            for name in pair:
                if name not in known:
                    raise ValueError(f"gains: {name!r} must be one of {', '.join(known)}")


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
    for arm, names in (*taken.items(), *recipe.control_arms.items()):
        jobs |= {f"{arm}/{name}": Job(str(arm), name) for name in names}
    if recipe.kv_arm is not None:
        jobs[f"{recipe.kv_arm}/{controls.SWAPPED}"] = Job(recipe.kv_arm, controls.SWAPPED)
    return jobs | {name: Job(r.reader, writer=r.writer) for name, r in recipe.readers.items()}


def check_readers(recipe: EvalRecipe) -> None:
    """Raise unless every reader and writer thinks, and every reader has text memory: words are all that it keeps."""
    for name, reading in recipe.readers.items():
        for arm in (reading.reader, reading.writer):
            if not read_contract(recipe.arms[arm]).thinks:
                raise EvaluationError(f"readers.{name}: arm {arm!r} does not think; name arms that do")
        layout = read_contract(recipe.arms[reading.reader]).render.layout
        if layout not in ("recurrent", "recurrent_packed"):
            raise EvaluationError(
                f"readers.{name}: arm {reading.reader!r} has layout {layout!r}, whose keys and values also carry what "
                f"it sees; a reader needs text memory (recurrent, recurrent_packed)"
            )
