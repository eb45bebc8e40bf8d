"""`whilst launch`: recipes on a cluster, or on all GPUs of this machine."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from whilst.cli.door import SHARED, Overrides, RecipePath, load_any, module
from whilst.recipe import stage_of


class Local(StrEnum):
    """Launchers of one machine."""

    torchrun = "torchrun"
    accelerate = "accelerate"


def launch(
    recipe: RecipePath,
    overrides: Overrides = None,
    nodes: Annotated[int | None, typer.Option(help="launch.nodes of all that train.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="launch.gpus_per_node of all.")] = None,
    limit: Annotated[str | None, typer.Option("--time", help="launch.time of all, such as 24:00:00.")] = None,
    partition: Annotated[str | None, typer.Option(help="launch.partition of all.")] = None,
    then: Annotated[list[Path] | None, typer.Option(metavar="RECIPE", help="Next, if all before ended well.")] = None,
    export_to: Annotated[Path | None, typer.Option(metavar="DIR", help="Last, export what was trained.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the scripts, submit nothing.")] = False,
    local: Annotated[Local | None, typer.Option(help="Train on this machine, without Slurm.")] = None,
) -> None:
    """Run recipes on a Slurm cluster: write their scripts beside the runs and submit them, one after the other.

    In a chain (--then), a key is of one recipe: STAGE:KEY=VALUE.
    """
    render = module("slurm.render")
    options = {"nodes": nodes, "gpus_per_node": gpus_per_node, "time": limit, "partition": partition}
    files = [(path, stage_of(path)) for path in (recipe, *(then or ()))]
    given = module("slurm.chain").spread(files, overrides or (), options)
    chain = [_to_launch(path, own) for (path, _), own in zip(files, given, strict=True)]
    if local is not None:
        if then or export_to:
            raise typer.BadParameter("--local runs one recipe; --then and --export-to are for a cluster")
        argv = module("slurm.local").command(chain[0], local.value)
        typer.echo(shlex.join(argv))
        if not dry_run:
            raise typer.Exit(subprocess.run(argv).returncode)
        return
    submit = module("slurm.submit")
    work = []
    for one in chain:
        render.check(one)
        phases: list[Any] = []
        if one.stage in SHARED:
            one, phases = _shared(one, dry_run)
        work.append(submit.Work(one, tuple(render.Phase(name, n, tuple(todo)) for name, n, todo in phases)))
    rendered = submit.prepare(work, export_to)
    for line in submit.told(submit.only_written(rendered) if dry_run else submit.submit(rendered)):
        typer.echo(line)


def _to_launch(path: Path, overrides: Sequence[str]) -> Any:
    """A recipe of any stage. Raises what its stage would raise of its number of ranks."""
    recipe = load_any(path, overrides)
    if recipe.stage in ("sft", "grpo"):
        recipe.optim.at(recipe.launch.ranks, samples=1)
    if recipe.stage == "grpo":
        recipe.rollout.at(recipe.launch.ranks)
    return recipe


def _shared(recipe: Any, dry_run: bool) -> tuple[Any, list[tuple[str, int, Sequence[int]]]]:
    """A recipe as tasks of job arrays share it, and of every phase its pieces, and those that are still to do."""
    stage = module(SHARED[recipe.stage])
    if recipe.stage == "eval":  # its checkpoints and samples may come of this very chain
        recipe = stage.for_tasks(recipe, recipe.launch.tasks)
        return recipe, [(name, pieces, range(pieces)) for name, pieces in stage.phases(recipe).items()]
    stage.for_tasks(recipe, recipe.launch.tasks)  # raises where limits are too low for so many
    if not dry_run:
        stage.begin(recipe)
    return recipe, [(name, pieces, list(todo)) for name, pieces, todo in stage.undone(recipe)]
