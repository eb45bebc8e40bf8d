"""`whilst ...`: the door to every stage. The only file of this package that imports stages, and only when asked to.

    whilst sft recipes/tiny/thinking.yaml optim.steps=100       # overrides are dotted keys; the value is YAML

A mistake in a recipe, sample, video or checkpoint is one line on stderr and exit code 2; `--traceback`, anywhere on the
line, shows where it arose. Anything else that goes wrong is a bug, and always shows its traceback.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
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
PACKAGES = ("whilst", "data_pipeline", "train", "rewards", "evaluation")


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


@app.command()
def synth(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Make samples of sources: a world's, annotated videos', or videos that a model describes."""
    loaded = load_for("synth", recipe, overrides)
    stage = stage_module("synth")
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
def evaluate(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Evaluate checkpoints and write report.json and report.html."""
    loaded = load_for("eval", recipe, overrides)
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
def plan(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Show a recipe as it would run: resolved keys and, for sft, parameters, masks and first rows."""
    stage = stage_of(recipe, overrides or ())
    if stage not in STAGES:
        raise RecipeError(f"{recipe}: stage: {stage!r} is not one of {', '.join(STAGES)}")
    loaded = load_for(stage, recipe, overrides)
    with TemporaryDirectory() as folder:
        save_resolved(loaded, Path(folder, "recipe.yaml"))
        typer.echo(Path(folder, "recipe.yaml").read_text(encoding="utf-8"))
    if stage == "sft":
        planner = importlib.import_module("train.plan")
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, text in planner.lines(planner.plan(loaded)):
            table.add_row(name, text)
        Console(highlight=False).print(table)


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
