"""One attempt at a training: go on from the last checkpoint, train, save; run.json says how far it is and how it ended.

Attempts in one folder are one run. Of each key of the recipe that shapes the result they must say the same (`claim`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from socket import gethostname
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from train.checkpoint_files import PREFIX, checkpoints, sweep
from train.checkpoints import WholeCheckpoints, resume_point
from train.stage import StageError, TrainRecipe, ranks
from train.stopping import PREEMPTED, Interrupted, Preempted, Stopping, catching
from whilst import __version__
from whilst.recipe import RecipeError, load_recipe, save_resolved
from whilst.runs import Run, read_run, write_run

RECIPE = "recipe.yaml"
STALLED = 10  # attempts in a row without a step, after which a run has failed
# keys that may differ between the attempts at one run: what is trained does not follow from them
FREE = frozenset(
    (
        *("output", "launch", "twin", "save_steps", "keep_checkpoints", "log_steps", "log_episodes", "report_to"),
        *("wandb", "notes", "source", "data.keep_megabytes", "data.workers"),
    )
)


def is_main() -> bool:
    """Whether this is rank 0, also before ranks know each other."""
    return os.environ.get("RANK", "0") == "0"


def claim(recipe: TrainRecipe) -> None:
    """Make the run's folder and write recipe.yaml, if the checkpoints in it, where there are any, are of this recipe.

    Raises:
        StageError: they are of another one; it lists the keys.
    """
    out = Path(recipe.output)
    out.mkdir(parents=True, exist_ok=True)
    if checkpoints(out) and (out / RECIPE).is_file():
        differing = _differing(recipe, out / RECIPE)
        if differing:
            listed = "\n  ".join(differing)
            raise StageError(
                f"{out}: its checkpoints are of another recipe, and going on would mix two experiments; train into "
                f"another output, or remove them. Differing (there -> now):\n  {listed}"
            )
    if is_main():
        part = out / f".{RECIPE}.{os.getpid()}.part"
        save_resolved(recipe, part)
        os.replace(part, out / RECIPE)


def _differing(recipe: TrainRecipe, file: Path) -> list[str]:
    """Keys in which the recipe in `file` differs, with both values."""
    try:
        there = _flat(asdict(load_recipe(file, type(recipe))))
    except RecipeError as error:
        return [f"{file.name} cannot be read as a recipe of this stage: {error}"]
    now = _flat(asdict(recipe))
    # under a constant rate more steps only go on; under any other, or where a share of them warms up, the curve changes
    goes_on = recipe.optim.schedule == "constant" and not recipe.optim.warmup_ratio
    free = FREE | ({"optim.steps", "optim.epochs"} if goes_on else set())
    return [
        f"{key}: {there.get(key, 'nothing')!r} -> {now.get(key, 'nothing')!r}"
        for key in sorted(there.keys() | now.keys())
        if not {key, key.split(".")[0]} & free and there.get(key) != now.get(key)
    ]


def _flat(tree: Any, at: str = "") -> dict[str, Any]:
    """Leaves of nested mappings, lists and tuples by dotted key."""
    if isinstance(tree, Mapping):
        inner = {str(key): value for key, value in tree.items()}
    elif isinstance(tree, list | tuple):
        inner = {str(i): value for i, value in enumerate(tree)}
    else:
        return {at: tree}
    return {key: leaf for name, value in inner.items() for key, leaf in _flat(value, f"{at}.{name}".strip(".")).items()}


class Account(TrainerCallback):
    """Keeps run.json: at the start of an attempt, at each log and save, and at its end. Rank 0 writes."""

    def __init__(self, recipe: TrainRecipe) -> None:
        self.output = Path(recipe.output)
        before = read_run(self.output)
        now = time.time()
        self.run = Run(
            name=recipe.name,
            stage=recipe.stage,
            state="running",
            step=before.step if before else 0,
            steps=recipe.optim.steps or (before.steps if before else 0),
            ranks=ranks(),
            attempt=before.attempt + 1 if before else 1,
            started=before.started if before else now,
            updated=now,
            version=__version__,
            checkpoint=before.checkpoint if before else "",
            job=os.environ.get("SLURM_JOB_ID", ""),
            host=gethostname(),
            pid=os.getpid(),
            wandb=before.wandb if before else "",
            stalled=before.stalled if before else 0,
            metrics=before.metrics if before else {},
        )
        self.began: int | None = None  # the step at which training went on

    def write(self, **changes: Any) -> None:
        self.run = replace(self.run, **changes, updated=time.time())
        if is_main():
            write_run(self.output, self.run)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, the run is running; afterwards it has finished, was preempted, or has failed.

        StageError: it was preempted once too often without a step. What ends so is not put into Slurm's queue again.
        """
        self.write()
        try:
            yield
        except Preempted as stop:
            stalled = self.run.stalled + 1 if stop.step == self.began else 0
            if stalled == STALLED:
                error = (
                    f"{self.output}: stopped {stalled} times in a row at step {stop.step}, so it would never end: a "
                    f"step takes longer than an attempt may. Give it more time (launch.time), or a smaller step"
                )
                self.write(state="failed", stalled=0, error=error)
                raise StageError(error) from stop
            self.write(state="preempted", step=stop.step, stalled=stalled)
            raise
        except BaseException as error:
            last = (str(error).strip().splitlines() or [""])[-1]
            try:
                self.write(state="failed", error=f"{type(error).__name__}: {last}")
            except OSError as unwritten:  # a full disk must not hide what went wrong
                print(f"run.json cannot be written: {unwritten}", file=sys.stderr)
            raise
        self.write(state="finished", step=self.run.steps)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = sys.modules["wandb"].run if "wandb" in sys.modules else None
        self.began = state.global_step
        self.write(step=state.global_step, steps=state.max_steps, wandb=run.id if run is not None else self.run.wandb)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        self.write(step=state.global_step, metrics={**self.run.metrics, **numbers})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(step=state.global_step, checkpoint=f"{PREFIX}{state.global_step}")


# Trainers on several ranks, until their process ends. When DDP's reducer is collected, it ends its process group: it
# would wait, with Python's lock held, for gloo's thread, which may need that lock to let go of what was gathered last.
_alive: list[WholeCheckpoints] = []


def attempt(
    recipe: TrainRecipe, build: Callable[[], WholeCheckpoints], save: Callable[[WholeCheckpoints], None]
) -> Path:
    """Train a recipe to its end and save, going on from the last checkpoint in its folder where there is one.

    Raises:
        Preempted: the run was asked to stop, and has saved.
        StageError: the folder is another recipe's, or its checkpoints cannot be gone on from.
    """
    out = Path(recipe.output)
    claim(recipe)
    account = Account(recipe)
    with catching(), account.kept():
        try:
            trainer = build()
        except Interrupted:
            if is_main():
                print(f"{out}: stopped while its samples were measured; run it again to go on (exit {PREEMPTED})")
            PartialState().destroy_process_group()
            raise Preempted(account.run.step) from None
        if PartialState().num_processes > 1:
            _alive.append(trainer)
        try:
            checkpoint = resume_point(trainer)
            trainer.add_callback(account)
            trainer.add_callback(Stopping())
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except Preempted as stop:
            if is_main():
                print(f"{out}: stopped after step {stop.step} and saved; run it again to go on (exit {PREEMPTED})")
            trainer.accelerator.end_training()
            raise
        save(trainer)
        if is_main():
            sweep(out)
        # a process that exits with a live process group may abort while it is torn down
        trainer.accelerator.end_training()
    return out
