"""`whilst ...`: the door to every stage. Below, which file has which command; door.py has what all of them share.

    whilst sft recipes/tiny/thinking.yaml optim.steps=100       # overrides are dotted keys; the value is YAML

A mistake in a recipe, sample, video or checkpoint is one line on stderr and exit code 2; `--traceback`, anywhere on the
line, shows where it arose. Anything else that goes wrong is a bug, and always shows its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from whilst import __version__
from whilst.cli import data, evaluate, export, launch, plan, serve, train, view, watch
from whilst.cli.door import PACKAGES, STAGES, Commands, load_for, stage_module

__all__ = ["PACKAGES", "STAGES", "app", "load_for", "main", "stage_module"]

# in the order of `whilst --help`, which puts the group `doctor` last
COMMANDS: dict[str, Callable[..., None]] = {
    "world": data.world,
    "synth": data.synth,
    "tiny": train.tiny,
    "sft": train.sft,
    "grpo": train.grpo,
    "eval": evaluate.evaluate,
    "benchmark": evaluate.benchmark,
    "score": evaluate.score,
    "compare": evaluate.compare,
    "plan": plan.plan,
    "launch": launch.launch,
    "twin": train.twin,
    "runs": train.runs,
    "watch": watch.watch,
    "serve": serve.serve,
    "view": view.view,
    "export": export.export,
    "demo": evaluate.demo,
}
GROUPS = {"doctor": data.doctor}

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"whilst {__version__}")
        raise typer.Exit


@app.callback()
def whilst(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Post-training for streaming video LLMs that think whilst they watch."""
    if not sys.stderr.isatty():  # no bars when piped; libraries read this when they are imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


for name, command in COMMANDS.items():
    app.command(name)(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def main() -> None:
    """The console script."""
    app()
