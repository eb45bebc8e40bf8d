"""`whilst plan`: a recipe as it would run, without running it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from whilst.cli.door import Json, Overrides, RecipePath, console, load_any, module
from whilst.recipe import save_resolved


def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    samples: Annotated[int | None, typer.Option(min=1, help="How many there will be, if they are not here.")] = None,
    mfu: Annotated[float, typer.Option(help="The share of the GPU's peak that hours are counted at.")] = 0.35,
    seconds: Annotated[float, typer.Option(help="Of the sample that is counted by where there is none.")] = 60.0,
    segment: Annotated[float, typer.Option(help="Seconds of its segments.")] = 4.0,
    report: Json = None,
) -> None:
    """Show a recipe as it would run: resolved keys and, for training, parameters, tokens, memory, steps, hours."""
    loaded = load_any(recipe, overrides)
    with TemporaryDirectory() as folder:
        save_resolved(loaded, Path(folder, "recipe.yaml"))
        resolved = Path(folder, "recipe.yaml").read_text(encoding="utf-8")
    typer.echo(resolved)
    if loaded.stage in ("sft", "grpo"):
        planner = module("train.plan_text")
        pairs, figures = planner.tell(loaded, recipe, planner.options(samples, mfu, seconds, segment))
    else:
        pairs, figures = _counts(loaded), {}
    if pairs:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, text in pairs:
            table.add_row(name, text)
        console(highlight=False).print(table)
    if report is not None:
        whole = {"recipe": yaml.safe_load(resolved), "counts": dict(pairs), **figures}
        report.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _counts(recipe: Any) -> list[tuple[str, str]]:
    """What other stages would do, where it can be counted without doing it."""
    if recipe.stage == "world":
        return [
            ("videos", f"{sum(recipe.counts.values())}: " + ", ".join(f"{n} {s}" for s, n in recipe.counts.items()))
        ]
    if recipe.stage == "eval":
        jobs = list(module("evaluation.recipe").named_jobs(recipe))
        return [("jobs", f"{len(jobs)}: {', '.join(jobs)}"), ("processes", str(recipe.jobs))]
    return []
