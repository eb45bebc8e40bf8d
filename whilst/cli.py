"""`whilst ...`: the door to every stage. The only file of this package that imports stages, and only when asked to.

    whilst sft recipes/tiny/thinking.yaml optim.steps=100       # overrides are dotted keys; the value is YAML

A mistake in a recipe, sample, video or checkpoint is one line on stderr and exit code 2; `--traceback`, anywhere on the
line, shows where it arose. Anything else that goes wrong is a bug, and always shows its traceback.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from whilst import __version__
from whilst.recipe import RecipeError, load_recipe, save_resolved, stage_of

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


LOCAL = "127.0.0.1"


class Engine(StrEnum):
    """The names that whilst.engines knows; they stand here too because `whilst --help` must not load torch."""

    auto = "auto"
    sequential = "sequential"
    parallel = "parallel"


class Deadline(StrEnum):
    """The names that whilst.parallel knows."""

    last_finished = "last_finished"
    wait = "wait"


class _Commands(TyperGroup):
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


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="dotted.key=value", show_default=False)
]


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


def stage_module(stage: str) -> Any:
    """The module that runs a stage."""
    return importlib.import_module(STAGES[stage][0])


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


@app.command()
def world(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Make the videos of a procedural world, with their exact graphs."""
    loaded = load_for("world", recipe, overrides)
    stage = stage_module("world")
    for split, report in stage.run(loaded).items():
        typer.echo(f"{split}: {stage.told(report)}")
    typer.echo(loaded.output)


Share = Annotated[str | None, typer.Option("--phase", help="Do a share of this phase alone.", show_default=False)]
Task = Annotated[int, typer.Option(min=0, help="Which share: pieces TASK, TASK + TASKS, ...")]
Tasks = Annotated[int, typer.Option(min=1, help="In how many shares the phase is done.")]
Missing = Annotated[bool, typer.Option("--missing", help="List the pieces that are not done: phase, number, name.")]


def _did_part(stage: Any, recipe: Any, phase: str | None, task: int, tasks: int, missing: bool) -> bool:
    """Whether a task of a job array was asked for, or what such tasks have left undone; it is done then."""
    if missing:
        for name, _, todo in stage.undone(recipe):
            for number, told in sorted(todo.items()):
                typer.echo(f"{name} {number} {told}")
    elif phase is not None:
        typer.echo(stage.run_share(recipe, phase, task, tasks))
    return missing or phase is not None


@app.command()
def synth(
    recipe: RecipePath,
    overrides: Overrides = None,
    phase: Share = None,
    task: Task = 0,
    tasks: Tasks = 1,
    missing: Missing = False,
) -> None:
    """Make samples of sources: a world's, annotated videos', or videos that a model describes."""
    loaded = load_for("synth", recipe, overrides)
    stage = stage_module("synth")
    if _did_part(stage, loaded, phase, task, tasks, missing):
        return
    stage.show(stage.run(loaded), _console())
    typer.echo(loaded.output)


@app.command()
def tiny(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Build a tiny checkpoint with random weights, offline."""
    loaded = load_for("tiny", recipe, overrides)
    typer.echo(stage_module("tiny").run(loaded))


@app.command()
def sft(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Fine-tune on samples."""
    loaded = load_for("sft", recipe, overrides)
    typer.echo(stage_module("sft").run(loaded))


@app.command()
def grpo(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train on the rewards of the checkpoint's own episodes."""
    loaded = load_for("grpo", recipe, overrides)
    typer.echo(stage_module("grpo").run(loaded))


@app.command("eval")
def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    phase: Share = None,
    task: Task = 0,
    tasks: Tasks = 1,
    missing: Missing = False,
) -> None:
    """Evaluate checkpoints and write report.json and report.html."""
    loaded = load_for("eval", recipe, overrides)
    if _did_part(importlib.import_module(SHARED["eval"]), loaded, phase, task, tasks, missing):
        return
    _show_report(stage_module("eval").run(loaded), Path(loaded.output))


def _console() -> Console:
    # Piped, a table keeps its width: cells must not be cut to 80 characters.
    return Console(width=None if sys.stdout.isatty() else 160)


def _show_report(report: dict[str, Any], folder: Path) -> None:
    importlib.import_module("evaluation.report").print_table(report, _console())
    typer.echo(f"report: {folder / 'report.html'}")


doctor = typer.Typer(no_args_is_help=True, help="Check data: its causality, and the files themselves.")
app.add_typer(doctor, name="doctor")

Json = Annotated[Path | None, typer.Option("--json", help="Write the report here too.", show_default=False)]


@doctor.command()
def causality(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `whilst synth` wrote.", show_default=False)],
    cuts: Annotated[int, typer.Option(min=1, help="Moments a sample.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="About so many samples, drawn; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the moments, and of the samples drawn.")] = 0,
    report: Json = None,
) -> None:
    """Change everything after t, tell it again: what was said up to t must stay, byte for byte. Exit code 1 if not."""
    check = importlib.import_module("data_pipeline.doctor.folder")
    found = check.check_folder(folder, cuts=cuts, limit=limit, seed=seed)
    if report is not None:
        check.write_report(found, report)
    check.show(found, _console())
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
    check = importlib.import_module("data_pipeline.doctor.data")
    found = check.check_data(path, state=state, depth="all" if every_frame else "few", workers=workers)
    if report is not None:
        check.write_report(found, report)
    check.print_report(found, _console())
    raise typer.Exit(1 if found.count("error") else 0)


Benchmark = Annotated[str, typer.Argument(metavar="NAME", help="e.g. ovo_bench", show_default=False)]
Annotations = Annotated[
    Path, typer.Argument(metavar="ANNOTATIONS", help="The published file or folder.", show_default=False)
]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="of the benchmark", show_default=False)
]


@app.command()
def benchmark(
    name: Benchmark,
    annotations: Annotations,
    options: Options = None,
    videos: Annotated[Path, typer.Option(help="The folder of its videos; they need not be there.")] = Path("videos"),
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")] = Path("benchmark"),
    report: Json = None,
) -> None:
    """Turn a benchmark's annotations into samples, with every rejected row and its reason."""
    stage = importlib.import_module("evaluation.benchmark")
    found = stage.convert(name, annotations, videos, out, _options(options))
    _tell(stage, found, report)
    typer.echo(out)


@app.command()
def score(
    name: Benchmark,
    annotations: Annotations,
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Published results, or a JSONL of replies.", show_default=False)
    ],
    options: Options = None,
    report: Json = None,
) -> None:
    """Score replies to a benchmark: strictly and as its published scorer does, and the gap between the two."""
    stage = importlib.import_module("evaluation.benchmark")
    _tell(stage, stage.score_results(name, annotations, results, _options(options)), report)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="What `whilst eval` wrote; or FOLDER:ARM.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same samples.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write compare.json and compare.md to this folder.")
    ] = None,
) -> None:
    """Compare two evaluations query by query: differences, intervals and paired tests."""
    stage = importlib.import_module("evaluation.compare")
    found = stage.compare(a, b)
    stage.show(found, _console())
    if out is not None:
        typer.echo(stage.write(found, out))


def _options(given: Sequence[str] | None) -> dict[str, Any]:
    """KEY=VALUE, the value as YAML."""
    options = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{text!r}: write an option as KEY=VALUE")
        options[key] = _yaml(value, text)
    return options


def _yaml(value: str, where: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{where!r}: not YAML: {' '.join(str(error).split())}") from error


def _tell(stage: Any, found: dict[str, Any], report: Path | None) -> None:
    if report is not None:
        report.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    stage.show(found, _console())


@app.command()
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
    stage = stage_of(recipe, overrides or ())
    if stage not in STAGES:
        raise RecipeError(f"{recipe}: stage: {stage!r} is not one of {', '.join(STAGES)}")
    loaded = load_for(stage, recipe, overrides)
    with TemporaryDirectory() as folder:
        save_resolved(loaded, Path(folder, "recipe.yaml"))
        resolved = Path(folder, "recipe.yaml").read_text(encoding="utf-8")
    typer.echo(resolved)
    if stage in ("sft", "grpo"):
        planner = importlib.import_module("train.plan_text")
        pairs, figures = planner.tell(loaded, recipe, planner.options(samples, mfu, seconds, segment))
    else:
        pairs, figures = _counts(stage, loaded), {}
    if pairs:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, text in pairs:
            table.add_row(name, text)
        Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    if report is not None:
        whole = {"recipe": yaml.safe_load(resolved), "counts": dict(pairs), **figures}
        report.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _counts(stage: str, loaded: Any) -> list[tuple[str, str]]:
    """What other stages would do, where it can be counted without doing it."""
    if stage == "world":
        return [
            ("videos", f"{sum(loaded.counts.values())}: " + ", ".join(f"{n} {s}" for s, n in loaded.counts.items()))
        ]
    if stage == "eval":
        jobs = list(importlib.import_module("evaluation.recipe").named_jobs(loaded))
        return [("jobs", f"{len(jobs)}: {', '.join(jobs)}"), ("processes", str(loaded.jobs))]
    return []


class Local(StrEnum):
    """Launchers of one machine."""

    torchrun = "torchrun"
    accelerate = "accelerate"


@app.command()
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
    render = importlib.import_module("slurm.render")
    options = {"nodes": nodes, "gpus_per_node": gpus_per_node, "time": limit, "partition": partition}
    files = [(path, stage_of(path)) for path in (recipe, *(then or ()))]
    given = importlib.import_module("slurm.chain").spread(files, overrides or (), options)
    chain = [_to_launch(path, own) for (path, _), own in zip(files, given, strict=True)]
    if local is not None:
        if then or export_to:
            raise typer.BadParameter("--local runs one recipe; --then and --export-to are for a cluster")
        argv = importlib.import_module("slurm.local").command(chain[0], local.value)
        typer.echo(shlex.join(argv))
        if not dry_run:
            raise typer.Exit(subprocess.run(argv).returncode)
        return
    submit = importlib.import_module("slurm.submit")
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
    stage = stage_of(path, overrides)
    if stage not in STAGES:
        raise RecipeError(f"{path}: stage: {stage!r} is not one of {', '.join(STAGES)}")
    recipe = load_for(stage, path, overrides)
    if stage in ("sft", "grpo"):
        recipe.optim.at(recipe.launch.ranks, samples=1)
    if stage == "grpo":
        recipe.rollout.at(recipe.launch.ranks)
    return recipe


def _shared(recipe: Any, dry_run: bool) -> tuple[Any, list[tuple[str, int, Sequence[int]]]]:
    """A recipe as tasks of job arrays share it, and of every phase its pieces, and those that are still to do."""
    stage = importlib.import_module(SHARED[recipe.stage])
    if recipe.stage == "eval":  # its checkpoints and samples may come of this very chain
        recipe = stage.for_tasks(recipe, recipe.launch.tasks)
        return recipe, [(name, pieces, range(pieces)) for name, pieces in stage.phases(recipe).items()]
    stage.for_tasks(recipe, recipe.launch.tasks)  # raises where limits are too low for so many
    if not dry_run:
        stage.begin(recipe)
    return recipe, [(name, pieces, list(todo)) for name, pieces, todo in stage.undone(recipe)]


@app.command()
def twin(
    recipe: RecipePath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder that twins share.")] = Path("runs/twins"),
) -> None:
    """Take two updates with a tiny twin of a training recipe, on any CPU."""
    from whilst.twin import Step, steps_of, take

    stage = stage_of(recipe, overrides or ())
    if stage not in STAGES:
        raise RecipeError(f"{recipe}: stage: {stage!r} is not one of {', '.join(STAGES)}")
    steps = steps_of(recipe, load_for(stage, recipe, overrides), out, overrides or ())

    def run(step: Step) -> None:
        typer.echo(f"{step.stage} {step.output}")
        stage_module(step.stage).run(load_for(step.stage, step.recipe, step.overrides))

    take(steps, run)
    typer.echo("changed for the twin:")
    for override in steps[-1].overrides:
        typer.echo(f"  {override}")


@app.command()
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


@app.command()
def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video file, a folder of images with a frames.json, or a camera: an rtsp, http or file URL, or "
            "/dev/video0.",
            show_default=False,
        ),
    ],
    model: Annotated[Path, typer.Option(help="A folder that `whilst sft` wrote.", show_default=False)],
    fps: Annotated[float | None, typer.Option(help="Frames a second; default: as in training.")] = None,
    segment: Annotated[float, typer.Option(help="Seconds a segment.")] = 1.0,
    ask: Annotated[list[str] | None, typer.Option(metavar="TIME:QUERY", help="e.g. '3.5:who is there ?'")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Every line on stdin is a query, asked now.")] = False,
    realtime: Annotated[
        bool, typer.Option("--realtime/--fast", help="By the real clock, or as fast as it can be read.")
    ] = False,
    speed: Annotated[float | None, typer.Option(help="Seconds of video a second (with --realtime); 1.")] = None,
    proactive: Annotated[list[str] | None, typer.Option(metavar="QUERY", help="Put after every segment.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Speak where silence is less likely than this; default: greedy.")
    ] = None,
    after_reply: Annotated[float | None, typer.Option(help="The threshold right after a reply.")] = None,
    states: Annotated[
        bool, typer.Option("--states", help="The checkpoint writes silence, standby or respond as its thought.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="parallel answers whilst it thinks; auto: so where possible, on the real clock.")
    ] = Engine.auto,
    deadline: Annotated[
        Deadline | None, typer.Option(help="Of the parallel engine; default: last_finished on the real clock.")
    ] = None,
    drop_late: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Drop, and count, frames that waited longer.")
    ] = None,
    policy: Annotated[str | None, typer.Option(metavar="YAML", help="KV policy, e.g. '{name: sink_window}'.")] = None,
    thought_tokens: Annotated[int, typer.Option(help="Most tokens of a thought.")] = 64,
    answer_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: every event.")] = False,
) -> None:
    """Watch a video as a stream: print thoughts and answers as they come."""
    queries = [_query(text) for text in ask or ()]
    if speed is not None and not realtime:
        raise typer.BadParameter("--speed needs --realtime")
    if states and (threshold is not None or after_reply is not None):
        raise typer.BadParameter("--states and --threshold are two ways to decide: give one of them")
    from whilst import watch as stream
    from whilst.checkpoint import load_checkpoint
    from whilst.engines import LiveSettings
    from whilst.pace import is_url, open_source
    from whilst.policies import make_policy
    from whilst.proactive import STATES, Proactive

    checkpoint = load_checkpoint(model)
    clocked = None if is_url(source) and speed is None else (speed or 1.0)  # a camera keeps its own clock
    stream.watch(
        checkpoint,
        open_source(source, checkpoint.contract.fps if fps is None else fps),
        LiveSettings(
            segment_seconds=segment,
            thought_tokens=thought_tokens,
            answer_tokens=answer_tokens,
            speed=clocked if realtime else None,
            drop_late=drop_late,
            standing=tuple(proactive or ()),
            proactive=STATES if states else Proactive(threshold, after_reply),
            engine=engine.value,
            deadline=None if deadline is None else deadline.value,
        ),
        typer.echo,
        as_json=as_json,
        queries=queries,
        questions=stream.lines_of(0) if stdin else None,
        policy=make_policy(_yaml(policy, policy)) if policy is not None else None,
    )


@app.command()
def serve(
    model: Annotated[Path, typer.Option(help="A folder that `whilst sft` wrote.", show_default=False)],
    videos: Annotated[Path, typer.Option(help="The folder whose videos may be watched.", show_default=False)],
    host: Annotated[str, typer.Option(help="Where to listen; another than this one is open to your network.")] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8765,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A further name of this host.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 4,
    idle: Annotated[float, typer.Option(help="Seconds after which a stream that nobody looks at ends.")] = 30.0,
    upload_megabytes: Annotated[float, typer.Option(min=0, help="Largest upload; 0: none.")] = 200.0,
    thought_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a thought.")] = 64,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
) -> None:
    """A local web page: watch a video as a stream, and ask while it runs."""
    from whilst.checkpoint import load_checkpoint
    from whilst.serve import ServeSettings, make_server

    server = make_server(
        load_checkpoint(model),
        ServeSettings(
            videos=videos,
            host=host,
            port=port,
            names=tuple(allow_host or ()),
            sessions=sessions,
            idle_seconds=idle,
            upload_bytes=round(upload_megabytes * 1e6),
            thought_tokens=thought_tokens,
            answer_tokens=answer_tokens,
        ),
    )
    if host not in (LOCAL, "localhost", "::1"):
        typer.echo(f"warning: {host} is open to your network: anyone there can watch, upload and ask", err=True)
    typer.echo(server.address)
    with server:
        server.serve_forever()


def _query(text: str) -> tuple[float, str]:
    time, colon, question = text.partition(":")
    try:
        seconds = float(time)
    except ValueError:
        seconds = -1.0
    if not colon or not question.strip() or not 0.0 <= seconds < float("inf"):
        raise typer.BadParameter(f"--ask {text!r}: write it as SECONDS:QUERY, such as '3.5:who is there ?'")
    return seconds, question.strip()


@app.command()
def view(
    samples: Annotated[Path, typer.Argument(metavar="SAMPLES", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("view.html"),
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this sample; may be repeated.")] = None,
    graphs: Annotated[Path | None, typer.Option(help="Sources or graphs of the samples: a file or folder.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Its tokenizer counts tokens; else words.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many samples.")] = 20,
    fps: Annotated[float, typer.Option(help="Frames a second to show.")] = 2.0,
    embed_megabytes: Annotated[float, typer.Option(help="Videos beyond this are linked, not embedded.")] = 24.0,
    frames: Annotated[bool, typer.Option(help="Show frames; without, videos need not be here.")] = True,
) -> None:
    """Write a page that shows samples: video, events on a timeline, and the graph as of the playhead."""
    from whilst.view import write_page

    page = write_page(
        samples,
        out,
        ids=ids or (),
        limit=limit,
        fps=fps,
        graphs=graphs,
        checkpoint=checkpoint,
        embed_megabytes=embed_megabytes,
        frames=frames,
    )
    typer.echo(page)


class Dtype(StrEnum):
    """Of exported weights."""

    bfloat16 = "bfloat16"
    float32 = "float32"


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A training's folder, samples, or an export.", show_default=False)
    ],
    to: Annotated[Path | None, typer.Option(help="The folder to write.", show_default=False)] = None,
    push_to_hub: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="The repository to push to.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Everybody may see it; default: private.")] = False,
    revision: Annotated[str, typer.Option(help="The branch; it is made where it is missing.")] = "main",
    tag: Annotated[str | None, typer.Option(help="Set when the pushed files have been checked.")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA adapter by itself, not merged.")] = False,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="Default: the final model.")] = None,
    report: Annotated[Path | None, typer.Option(help="What `whilst eval` wrote, for the card's figures.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = Dtype.bfloat16,
    base: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="The base model, if on the Hub.")] = None,
    license: Annotated[str | None, typer.Option(metavar="ID", help="As the Hub names it; default: the base's.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(metavar="OWNER/NAME", help="Trained on; may repeat.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and destination; keep and send none.")] = False,
) -> None:
    """Turn a trained model or samples into a folder that others can load, and push it to the Hub."""
    if to is None and push_to_hub is None:
        raise typer.BadParameter("give --to DIR, --push-to-hub OWNER/NAME, or both")
    from whilst.exported import ExportError, is_exported, listing, read_exported

    trained = (run / "recipe.yaml").is_file() and stage_of(run / "recipe.yaml") in ("sft", "grpo")
    of_models = {"--adapter": adapter, "--checkpoint": checkpoint, "--report": report, "--base": base}
    idle = [name for name, value in {**of_models, "--dataset": dataset}.items() if value]
    if idle and (not trained or is_exported(run)):
        raise typer.BadParameter(f"{', '.join(idle)}: for a training's folder, which {run} is not")
    target = None
    if push_to_hub is not None:
        from whilst import hub

        target = hub.Target(push_to_hub, public, revision, tag)
        if not dry_run:
            hub.check_login(target)
    with ExitStack() as stack:
        if is_exported(run):
            if to is not None:
                raise ExportError(f"{run}: it is an export already; leave --to out, or copy it")
            exported = read_exported(run)
        else:
            out = to
            if out is None or dry_run:  # beside the run: there is room for models, which /tmp may not have
                made = TemporaryDirectory(prefix=".whilst-export-", dir=Path(os.path.abspath(run)).parent)
                out = Path(stack.enter_context(made), (to or run).name)
            if trained:
                train = importlib.import_module("train.export")
                settings = train.ExportSettings(
                    dtype=dtype.value,
                    adapter=adapter,
                    checkpoint=checkpoint,
                    base=base,
                    license=license,
                    datasets=tuple(dataset or ()),
                    report=report,
                    overwrite=overwrite,
                )
                exported = train.export_run(run, out, settings)
            else:
                share = importlib.import_module("data_pipeline.share")
                exported = share.export_samples(run, out, license=license, overwrite=overwrite)
        if dry_run:
            lines = hub.plan(exported, target) if target else [f"to {to}:", *listing(exported)]
            typer.echo("\n".join(lines))
        elif target is not None:
            typer.echo(hub.push(exported, target, lambda line: typer.echo(line, err=True)).url)
        if to is not None and not dry_run:
            typer.echo(to)


@app.command()
def demo(
    recipes: Annotated[Path, typer.Option(help="The folder whose recipes are run.")] = Path("recipes/tiny"),
    parallel: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 2,
) -> None:
    """Make a video world, train every arm of recipes/tiny on it and compare them."""
    from whilst.demo import run

    output = Path(load_for("eval", recipes / "eval.yaml").output)
    run(recipes, output, parallel)
    _show_report(json.loads((output / "report.json").read_text(encoding="utf-8")), output)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
