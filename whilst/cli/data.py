"""Commands that make data and check them: world, synth, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whilst.cli.door import Json, Overrides, RecipePath, console, load_for, module, shared, stage_module


def world(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Make the videos of a procedural world, with their exact graphs."""
    loaded = load_for("world", recipe, overrides)
    stage = stage_module("world")
    for split, report in stage.run(loaded).items():
        typer.echo(f"{split}: {stage.told(report)}")
    typer.echo(loaded.output)


@shared("synth")
def synth(recipe: Any) -> None:
    """Make samples of sources: a world's, annotated videos', or videos that a model describes."""
    stage = stage_module("synth")
    stage.show(stage.run(recipe), console())
    typer.echo(recipe.output)


doctor = typer.Typer(no_args_is_help=True, help="Check data: its causality, and the files themselves.")


@doctor.command()
def causality(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `whilst synth` wrote.", show_default=False)],
    cuts: Annotated[int, typer.Option(min=1, help="Moments a sample.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="About so many samples, drawn; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the moments, and of the samples drawn.")] = 0,
    report: Json = None,
) -> None:
    """Change everything after t, tell it again: what was said up to t must stay, byte for byte. Exit code 1 if not."""
    check = module("data_pipeline.doctor.folder")
    found = check.check_folder(folder, cuts=cuts, limit=limit, seed=seed)
    if report is not None:
        check.write_report(found, report)
    check.show(found, console())
    raise typer.Exit(check.exit_code(found))


@doctor.command()
def data(
    path: Annotated[Path, typer.Argument(metavar="DATA", help="A folder, file or name of shards.", show_default=False)],
    state: Annotated[Path | None, typer.Option(help="Remembers sound videos, so that a later run skips them.")] = None,
    every_frame: Annotated[bool, typer.Option("--every-frame", help="Decode all frames, not a few.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 1,
    report: Json = None,
) -> None:
    """Look for missing, broken and double videos, wrong durations, missing licences. Exit code 1 for errors."""
    check = module("data_pipeline.doctor.data")
    found = check.check_data(path, state=state, depth="all" if every_frame else "few", workers=workers)
    if report is not None:
        check.write_report(found, report)
    check.print_report(found, console())
    raise typer.Exit(1 if found.count("error") else 0)
