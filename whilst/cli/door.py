"""What all commands share: how a mistake is told, how a stage and its recipe are found, arguments that recur.

The only file of this package that imports stages, by name and only when a command needs them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from typer.core import TyperGroup

from whilst.recipe import RecipeError, load_recipe, stage_of

# stage -> (module with a `run`, its recipe). Names, not imports: `whilst --help` must not load torch.
STAGES = {
    "world": ("data_pipeline.world.stage", "WorldRecipe"),
    "synth": ("data_pipeline.synth", "SynthRecipe"),
    "tiny": ("whilst.tiny", "TinyRecipe"),
    "sft": ("train.sft", "SFTRecipe"),
    "grpo": ("train.grpo", "GRPORecipe"),
    "eval": ("evaluation.run", "EvalRecipe"),
}
SHARED = {"synth": "data_pipeline.synth", "eval": "evaluation.tasks"}  # stages whose work tasks of job arrays share
PACKAGES = ("whilst", "data_pipeline", "train", "rewards", "evaluation", "slurm")

# --- mistakes ---------------------------------------------------------------------------------------------------------


class Commands(TyperGroup):
    """Reports the user's mistakes in one line."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        try:
            return super().main([arg for arg in given if arg != "--traceback"], *rest, **extra)
        except Exception as error:
            if "--traceback" in given or not _is_a_mistake(error):
                raise
            typer.echo(f"error: {_told(error)}", err=True)
            sys.exit(2)


def _is_a_mistake(error: Exception) -> bool:
    """Whether the user can mend it: an error class of our own, or a file that cannot be found, read or written."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in PACKAGES


def _told(error: Exception) -> str:
    # Messages of the system and of the Hub run over several lines; ours are written as they should be read.
    return " ".join(str(error).split()) if isinstance(error, OSError) else str(error)


# --- stages and their recipes -----------------------------------------------------------------------------------------


def module(name: str) -> Any:
    """A module of a stage, or of what stands above this package."""
    return importlib.import_module(name)


def stage_module(stage: str) -> Any:
    """The module that runs a stage."""
    return module(STAGES[stage][0])


def load_for(stage: str, recipe: Path, overrides: Sequence[str] | None = None) -> Any:
    """A recipe of `stage`.

    Raises:
        RecipeError: the recipe is another stage's, or cannot be read as this one's.
    """
    found = stage_of(recipe, overrides or ())
    if found != stage:
        fix = f"run it with `whilst {found} {recipe}`" if found in STAGES else f"stages are {', '.join(STAGES)}"
        raise RecipeError(f"{recipe}: stage is {found!r}, not {stage!r}; {fix}")
    return load_recipe(recipe, getattr(stage_module(stage), STAGES[stage][1]), overrides or ())


def load_any(recipe: Path, overrides: Sequence[str] | None = None) -> Any:
    """A recipe of whatever stage it names. RecipeError as of `load_for`, and where there is no such stage."""
    stage = stage_of(recipe, overrides or ())
    if stage not in STAGES:
        raise RecipeError(f"{recipe}: stage: {stage!r} is not one of {', '.join(STAGES)}")
    return load_for(stage, recipe, overrides)


# --- arguments of several commands ------------------------------------------------------------------------------------

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="dotted.key=value", show_default=False)
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the report here too.", show_default=False)]
Share = Annotated[str | None, typer.Option("--phase", help="Do a share of this phase alone.", show_default=False)]
Task = Annotated[int, typer.Option(min=0, help="Which share: pieces TASK, TASK + TASKS, ...")]
Tasks = Annotated[int, typer.Option(min=1, help="In how many shares the phase is done.")]
Missing = Annotated[bool, typer.Option("--missing", help="List the pieces that are not done: phase, number, name.")]


def shared(stage: str) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """The command of a stage of `SHARED`, given what runs a recipe of it whole: tasks of a job array do their shares
    with it, and it lists what they have left undone."""

    def command(whole: Callable[[Any], None]) -> Callable[..., None]:
        def run(
            recipe: RecipePath,
            overrides: Overrides = None,
            phase: Share = None,
            task: Task = 0,
            tasks: Tasks = 1,
            missing: Missing = False,
        ) -> None:
            loaded = load_for(stage, recipe, overrides)
            if missing:
                for name, _, todo in module(SHARED[stage]).undone(loaded):
                    for number, told in sorted(todo.items()):
                        typer.echo(f"{name} {number} {told}")
            elif phase is not None:
                typer.echo(module(SHARED[stage]).run_share(loaded, phase, task, tasks))
            else:
                whole(loaded)

        # not functools.wraps: typer would read the parameters of what is wrapped
        run.__name__, run.__doc__ = whole.__name__, whole.__doc__
        return run

    return command


# --- reading and telling ----------------------------------------------------------------------------------------------


def yaml_value(value: str, where: str) -> Any:
    """A value of the command line as YAML; `where` is what a message quotes."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{where!r}: not YAML: {' '.join(str(error).split())}") from error


def console(**settings: Any) -> Console:
    """Where tables are printed. Piped, a table keeps its width: cells must not be cut to 80 characters."""
    return Console(width=None if sys.stdout.isatty() else 160, **settings)
