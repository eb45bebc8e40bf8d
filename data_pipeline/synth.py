"""The `synth` stage: sources (the world's, annotations', or videos') become shards of Samples.

    whilst synth recipes/vst/synth.yaml
    whilst synth recipes/vst/synth.yaml --phase publish --task 3 --tasks 16     # its share: a task of a job array

    name: vst-world
    stage: synth
    output: runs/vst-world
    inputs: {train: {sources: [runs/world/train.sources.jsonl], shards: 8}}
    builder: {vst: {}}
    workers: 2

The output folder gets data/<split>-00000-of-00008.parquet (and .jsonl), which `train` and `datasets.load_dataset` read;
sources/, the graphs behind them; yields.json, rejected.jsonl, words.txt and README.md, the dataset's card; exports/ in
foreign layouts; recipe.yaml (resolved); and state/, what a run that was killed goes on from. yields.json and the card
are there once all is done. To go on, run the same recipe again: finished shards stay, and in the end every byte is what
it would have been anyway.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_pipeline.engine.decisive import decisive, differing
from data_pipeline.engine.files import committing
from data_pipeline.engine.jobs import phases
from data_pipeline.engine.local import run_local
from data_pipeline.engine.recipe import Datatrove, Slurm, SynthRecipe
from data_pipeline.engine.tally import LEVELS
from data_pipeline.engine.tasks import for_tasks, perform_share, undone
from data_pipeline.source import SynthError
from whilst.progress import progress
from whilst.recipe import load_recipe, save_resolved

__all__ = ["SynthRecipe", "begin", "for_tasks", "report_table", "run", "run_share", "show", "undone"]


def run(recipe: SynthRecipe) -> dict[str, Any]:
    """Do what is not done yet; the report of yields.json. With Slurm the jobs are submitted, and the report is
    {"submitted": id of the last job} until they are done.

    Raises:
        SynthError: the output folder holds another run, another run is at work in it, or what an input, builder or
            filter raises.
        EndpointError, BudgetError: a server that keeps failing, or a budget that is used up; run again to go on.
        OSError: something could not be written.
    """
    begin(recipe)
    folder, plan = Path(recipe.output), phases(recipe)
    if isinstance(recipe.executor, Slurm):
        if (folder / "yields.json").is_file():
            return read_report(folder)
        from data_pipeline.engine.cluster import launch_slurm

        return {"submitted": launch_slurm(recipe, recipe.executor, plan)}
    if isinstance(recipe.executor, Datatrove):
        from data_pipeline.engine.cluster import run_datatrove

        run_datatrove(recipe, plan)
    else:
        with progress("jobs", sum(map(len, plan))) as advance:
            run_local(recipe, plan, advance)
    return read_report(folder)


def run_share(recipe: SynthRecipe, phase: str, task: int, tasks: int) -> str:
    """Do what is not done yet of one task of a phase; says what. `begin` and all phases before it come first.

    Raises:
        SynthError: as `run`, and where `begin` was not called.
    """
    if not Path(recipe.output, "recipe.yaml").is_file():
        raise SynthError(f"{recipe.output}: holds no recipe.yaml: `whilst launch` writes it, or `whilst synth`")
    begin(recipe)
    done = perform_share(recipe, phase, task, tasks)
    return f"{phase}: task {task} of {tasks}, {done} pieces are done"


def begin(recipe: SynthRecipe) -> None:
    """Note down what is made here, or make sure that it is what the folder already holds a part of."""
    folder = Path(recipe.output)
    path = folder / "recipe.yaml"
    if path.is_file():
        before = load_recipe(path, SynthRecipe)
        if keys := differing(decisive(before), decisive(recipe)):
            raise SynthError(
                f"{folder}: holds another run, made with other values of {', '.join(keys)} (see recipe.yaml there); "
                "write to another output, or remove this one"
            )
        return
    if found := [name for name in ("data", "sources", "state", "exports") if (folder / name).exists()]:
        raise SynthError(f"{folder}: holds {', '.join(found)} but no recipe.yaml; write to a folder of its own")
    with committing(folder, ["recipe.yaml"]) as [part]:
        save_resolved(recipe, part)


def read_report(folder: Path) -> dict[str, Any]:
    """yields.json of a finished run."""
    report: dict[str, Any] = json.loads((folder / "yields.json").read_text(encoding="utf-8"))
    return report


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report: the yield table, or that the jobs are submitted."""
    if "submitted" in report:
        console.print(f"submitted to Slurm; the last job is {report['submitted']}. Run the recipe again for the yields")
    else:
        console.print(report_table(report))


def report_table(report: dict[str, Any]) -> Table:
    """In, out and rejected by reason, for every split and level."""
    table = Table("split", "what", "in", "out", "rejected", "reason")
    for number in ("in", "out", "rejected"):
        table.columns[("split", "what", "in", "out", "rejected").index(number)].justify = "right"
    for split, tally in report["splits"].items():
        for level in LEVELS:
            _rows(table, split, level, tally[level])
        table.add_section()
    for layout, counted in report["exports"].items():
        _rows(table, f"export {layout}", "samples", counted)
    return table


def _rows(table: Table, split: str, what: str, counted: dict[str, Any]) -> None:
    rejected = counted["rejected"]
    table.add_row(split, what, str(counted["in"]), str(counted["out"]), str(sum(rejected.values())), "")
    for reason, count in rejected.items():
        table.add_row("", "", "", "", str(count), reason)
