"""A tiny twin of a training recipe: the same method on a tiny model, a world of seconds and two updates, on any CPU.

    whilst twin recipes/vst/sft_7b.yaml                         # makes what it needs, then takes two updates
    whilst twin recipes/vst/rl_7b.yaml loss.beta=0.1 --out runs/twins

What makes the method stays as the recipe says it: layout, rule, scheme, format, loss, rewards, what is frozen, LoRA,
learning rate and schedule. What makes it large is replaced: `SMALL_SFT`, `SMALL_GRPO` and the recipe's own `twin:`. The
first updates of a twin show that a recipe runs and learns, not that it is right: for that there are the properties
under tests/.

Reinforcement needs a start that is right sometimes: all replies of random weights score the same, and such a group
teaches nothing. So the SFT before it is trained on the same few samples until its replies are like theirs (`START`).

This module says which recipes are run, under which overrides; whilst/cli/train.py runs them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from whilst.files import write_whole
from whilst.recipe import Recipe, key_of, stage_of, writer_of

STEPS = 2
FAMILIES = {"qwen2.5-vl": "qwen2_5_vl", "qwen3-vl": "qwen3_vl"}

# Things touch each other, so that there are chains to ask for; a cell is one visual token of a tiny model.
WORLD = {
    "segments": [5, 7],
    "grid": 3,
    "colours": ["red", "green", "blue"],
    "shapes": ["circle", "square"],
    "events": {"touch": 4.0, "enter": 1.0, "leave": 0.5, "idle": 1.0},
}
SIZES = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2}
SMALL: dict[str, Any] = {
    "model.dtype": "float32",
    "model.attention": "whilst_sdpa",
    "model.min_pixels": None,
    "model.max_pixels": None,
    "optim.steps": STEPS,
    "optim.epochs": None,
    "optim.warmup_steps": 0,
    "optim.warmup_ratio": 0.0,
    "optim.deepspeed": None,
    "optim.fsdp2": False,
    "save_steps": 0,
    "log_steps": 1,
    "report_to": [],
}
SMALL_SFT: dict[str, Any] = SMALL | {
    "data.validation": None,
    "data.limit": 4,
    "optim.batch_size": 2,
    "optim.accumulation": 1,
    "optim.global_batch": None,
    "render.max_tokens": None,
}
START: dict[str, Any] = {
    "optim.steps": 30,
    "optim.batch_size": 4,
    "optim.learning_rate": 3e-3,
    "optim.schedule": "constant",
}
SMALL_GRPO: dict[str, Any] = SMALL | {
    "data.limit": 4,
    "data.difficulty": None,
    "policy": "transformers",
    "rollout.groups": 2,
    "rollout.global_groups": None,
    "rollout.rollouts": 4,
    "rollout.thought_tokens": 6,
    "rollout.answer_tokens": 12,
    "log_episodes": 0,
}


class TwinError(ValueError):
    """A recipe of which no tiny twin can be made; says which and why."""


@dataclass(frozen=True)
class Step:
    """A recipe that is run under `overrides`, and where its output goes."""

    stage: str
    recipe: Path
    overrides: tuple[str, ...]
    output: Path

    @property
    def digest(self) -> str:
        """Of all that decides the outcome of this step alone."""
        text = json.dumps([self.recipe.read_text(encoding="utf-8"), self.overrides])
        return hashlib.sha256(text.encode()).hexdigest()


def steps_of(path: Path, recipe: Recipe, folder: Path, overrides: Sequence[str] = ()) -> list[Step]:
    """The steps of a twin of `recipe`, which was read from `path` under `overrides`. Outputs go to `folder`.

    Twins that share a folder share world, samples and models. The recipe whose output this one starts from is looked
    for beside it (`writer_of`).

    Raises:
        TwinError: a stage that does not train, or a start that no recipe makes.
    """
    if recipe.stage not in ("sft", "grpo"):
        raise TwinError(f"{path}: a twin is made of recipes that train (sft, grpo), not of stage {recipe.stage!r}")
    path = path.resolve()
    start = key_of(path, "model.path", overrides)
    steps = _foundation(_family(start, path), recipe, folder)
    small: dict[str, Any] = {"data.train": str(steps[1].output / "data" / "train"), "model.path": str(steps[2].output)}
    if recipe.stage == "grpo":
        steps.append(_start(path, recipe, start, small, folder, overrides))
        small |= {"model.path": str(steps[-1].output), "contract": None}
    own = small | dict(recipe.twin.overrides)
    return [*steps, _train(path, own, folder, f"{path.parent.name}-{path.stem}", overrides)]


def _start(
    path: Path, recipe: Recipe, start: str, small: Mapping[str, Any], folder: Path, overrides: Sequence[str]
) -> Step:
    """The SFT that a twin of a GRPO recipe starts from: that of the recipe which makes `start`, or, where the recipe
    gives a contract because `start` is somebody else's, one under this contract."""
    name = f"{path.parent.name}-{path.stem}-start"
    if key_of(path, "contract", overrides) is not None:
        contract = asdict(recipe.contract)  # type: ignore[attr-defined]
        keys = {
            "model": {"path": small["model.path"]},
            "data": {
                "train": small["data.train"],
                "fps": contract["fps"],
                "thoughts": "keep" if contract["thinks"] else "drop",
                "limit": SMALL_SFT["data.limit"],
            },
            "optim": {key.removeprefix("optim."): value for key, value in START.items()},
            "render": contract["render"],
            "policy": contract["policy"],
        }
        return _made("sft", folder / name, json.loads(json.dumps(keys)))
    maker = writer_of(start, path)
    if maker is None or stage_of(maker) != "sft":
        raise TwinError(
            f"{path}: model.path: no sft recipe beside it has the output {start!r}, so it is unknown how the "
            f"checkpoint reads a stream; give `contract`, or add the recipe that trains it"
        )
    changed = {**small, **(key_of(maker, "twin.overrides") or {}), **START}
    return _train(maker, changed, folder, f"{maker.parent.name}-{maker.stem}-start")


def _family(start: str, path: Path) -> str:
    """The family of the checkpoint that a chain of recipes begins with."""
    seen = {path}
    while True:
        for part, family in FAMILIES.items():
            if part in start.lower():
                return family
        maker = writer_of(start, path)
        if maker is None or maker in seen:
            raise TwinError(
                f"{path}: model.path: {start!r} is no checkpoint of a known family ({', '.join(FAMILIES)}), and no "
                f"recipe beside {path} makes it"
            )
        seen.add(maker)
        start = key_of(maker, "model.path") or key_of(maker, "family") or ""


def _foundation(family: str, recipe: Recipe, folder: Path) -> list[Step]:
    """World, samples and model: what every twin of this family and builder stands on."""
    builder = {recipe.twin.builder: dict(recipe.twin.settings)}
    mark = hashlib.sha256(json.dumps(builder, sort_keys=True).encode()).hexdigest()[:6]
    world, samples = folder / "world", folder / f"samples-{recipe.twin.builder}-{mark}"
    sources = {"train": {"sources": [str(world / "train.sources.jsonl")], "shards": 1}}
    return [
        _made("world", world, {"counts": {"train": 8}, "world": WORLD}),
        _made("synth", samples, {"inputs": sources, "builder": builder}),
        _made(
            "tiny",
            folder / f"base-{family}-{mark}",
            {"family": family, "words_from": str(samples / "words.txt"), "sizes": SIZES},
        ),
    ]


def _made(stage: str, output: Path, keys: Mapping[str, Any]) -> Step:
    """A step whose recipe is written here."""
    keys = {"name": output.name, "stage": stage, "source": "none.", "output": str(output), **keys}
    file = output.parent / f"{output.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, yaml.safe_dump(keys, sort_keys=False, allow_unicode=True))
    return Step(stage, file, (), output)


def _train(path: Path, own: Mapping[str, Any], folder: Path, name: str, overrides: Sequence[str] = ()) -> Step:
    """The recipe at `path`, made small."""
    stage, output = stage_of(path), folder / name
    changed = (SMALL_SFT if stage == "sft" else SMALL_GRPO) | dict(own) | {"output": str(output)}
    small = tuple(f"{key}={json.dumps(value)}" for key, value in changed.items())
    return Step(stage, path, (*overrides, *small), output)


def take(steps: Sequence[Step], run: Callable[[Step], Any]) -> None:
    """Run the steps that are not done. One is done again when it has changed or a step before it is; what is left of it
    is removed first.

    Raises:
        TwinError: a folder stands where a step writes, and no twin made it: it is not touched.
    """
    done = 0
    while done < len(steps) and _mark(steps[done]) == steps[done].digest:
        done += 1
    for step in steps[done:]:
        if step.output.exists():
            if _mark(step) is None:
                raise TwinError(f"{step.output}: is there, and no twin made it; give the twins another folder (--out)")
            shutil.rmtree(step.output)
        _note(step, "begun")
        run(step)
        _note(step, step.digest)


def _note(step: Step, digest: str) -> None:
    file = _file(step)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"digest": digest}) + "\n")


def _mark(step: Step) -> str | None:
    """The digest under which a step was done, or that it was begun; None where no twin was made."""
    file = _file(step)
    return json.loads(file.read_text(encoding="utf-8"))["digest"] if step.output.exists() and file.exists() else None


def _file(step: Step) -> Path:
    return step.output.with_name(f"{step.output.name}.twin.json")
