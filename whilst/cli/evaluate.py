"""Commands that evaluate: eval, benchmark, score, compare; and demo, which ends in an evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from whilst.cli.door import Json, console, load_for, module, shared, stage_module, yaml_value


@shared("eval")
def evaluate(recipe: Any) -> None:
    """Evaluate checkpoints and write report.json and report.html."""
    _show_report(stage_module("eval").run(recipe), Path(recipe.output))


def _show_report(report: dict[str, Any], folder: Path) -> None:
    module("evaluation.report").print_table(report, console())
    typer.echo(f"report: {folder / 'report.html'}")


Benchmark = Annotated[str, typer.Argument(metavar="NAME", help="e.g. ovo_bench", show_default=False)]
Annotations = Annotated[
    Path, typer.Argument(metavar="ANNOTATIONS", help="The published file or folder.", show_default=False)
]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="of the benchmark", show_default=False)
]


def benchmark(
    name: Benchmark,
    annotations: Annotations,
    options: Options = None,
    videos: Annotated[Path, typer.Option(help="The folder of its videos; they need not be there.")] = Path("videos"),
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")] = Path("benchmark"),
    report: Json = None,
) -> None:
    """Turn a benchmark's annotations into samples, with every rejected row and its reason."""
    stage = module("evaluation.benchmark")
    found = stage.convert(name, annotations, videos, out, _options(options))
    _tell(stage, found, report)
    typer.echo(out)


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
    stage = module("evaluation.benchmark")
    _tell(stage, stage.score_results(name, annotations, results, _options(options)), report)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="What `whilst eval` wrote; or FOLDER:ARM.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same samples.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write compare.json and compare.md to this folder.")
    ] = None,
) -> None:
    """Compare two evaluations query by query: differences, intervals and paired tests."""
    stage = module("evaluation.compare")
    found = stage.compare(a, b)
    stage.show(found, console())
    if out is not None:
        typer.echo(stage.write(found, out))


def _options(given: Sequence[str] | None) -> dict[str, Any]:
    """KEY=VALUE, the value as YAML."""
    options = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{text!r}: write an option as KEY=VALUE")
        options[key] = yaml_value(value, text)
    return options


def _tell(stage: Any, found: dict[str, Any], report: Path | None) -> None:
    if report is not None:
        report.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    stage.show(found, console())


def demo(
    recipes: Annotated[Path, typer.Option(help="The folder whose recipes are run.")] = Path("recipes/tiny"),
    parallel: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 2,
) -> None:
    """Make a video world, train every arm of recipes/tiny on it and compare them."""
    from whilst.demo import run

    output = Path(load_for("eval", recipes / "eval.yaml").output)
    run(recipes, output, parallel)
    _show_report(json.loads((output / "report.json").read_text(encoding="utf-8")), output)
