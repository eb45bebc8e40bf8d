"""`whilst export`: a trained model or samples as a folder for others, and on the Hub."""

from __future__ import annotations

import os
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from whilst.cli.door import module
from whilst.recipe import stage_of


class Dtype(StrEnum):
    """Of exported weights."""

    bfloat16 = "bfloat16"
    float32 = "float32"


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
                train = module("train.export")
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
                share = module("data_pipeline.share")
                exported = share.export_samples(run, out, license=license, overwrite=overwrite)
        if dry_run:
            lines = hub.plan(exported, target) if target else [f"to {to}:", *listing(exported)]
            typer.echo("\n".join(lines))
        elif target is not None:
            typer.echo(hub.push(exported, target, lambda line: typer.echo(line, err=True)).url)
        if to is not None and not dry_run:
            typer.echo(to)
