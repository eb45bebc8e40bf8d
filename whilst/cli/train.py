"""Commands that train: tiny (what small models begin from), sft, grpo, twin; and runs, which lists trainings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from whilst.cli.door import Overrides, RecipePath, load_any, load_for, stage_module


def tiny(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Build a tiny checkpoint with random weights, offline."""
    loaded = load_for("tiny", recipe, overrides)
    typer.echo(stage_module("tiny").run(loaded))


def sft(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Fine-tune on samples."""
    loaded = load_for("sft", recipe, overrides)
    typer.echo(stage_module("sft").run(loaded))


def grpo(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train on the rewards of the checkpoint's own episodes."""
    loaded = load_for("grpo", recipe, overrides)
    typer.echo(stage_module("grpo").run(loaded))


def twin(
    recipe: RecipePath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder that twins share.")] = Path("runs/twins"),
) -> None:
    """Take two updates with a tiny twin of a training recipe, on any CPU."""
    from whilst.twin import Step, steps_of, take

    steps = steps_of(recipe, load_any(recipe, overrides), out, overrides or ())

    def run(step: Step) -> None:
        typer.echo(f"{step.stage} {step.output}")
        stage_module(step.stage).run(load_for(step.stage, step.recipe, step.overrides))

    take(steps, run)
    typer.echo("changed for the twin:")
    for override in steps[-1].overrides:
        typer.echo(f"  {override}")


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="default: runs", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs, not for people.")] = False,
) -> None:
    """List the training runs below folders: how far each is, and which say they are running but are lost."""
    from whilst import runs as listing

    found = listing.find_runs(folders or [Path("runs")])
    if as_json:
        typer.echo(json.dumps(listing.as_json(found), indent=1))
        return
    typer.echo(listing.table(found, time.time()))
